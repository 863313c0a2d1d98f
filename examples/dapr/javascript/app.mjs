// An application with Dapr's JavaScript SDK that answers what people say to the robot. The SDK drops what a callback
// returns: the answer goes back with the operation `reply`, to the session that the message names.
import { CommunicationProtocolEnum, DaprClient, DaprServer } from '@dapr/dapr';

const binding = process.env.BINDING ?? 'mydingtalk';
const communicationProtocol =
  process.env.PROTOCOL === 'grpc' ? CommunicationProtocolEnum.GRPC : CommunicationProtocolEnum.HTTP;
// Where both sides are, and their tokens, the SDK reads from DAPR_HTTP_PORT or DAPR_GRPC_PORT, DAPR_API_TOKEN and APP_PORT.
const client = new DaprClient({ communicationProtocol });
const server = new DaprServer({ communicationProtocol, clientOptions: { communicationProtocol } });

await server.binding.receive(binding, async (message) => {
  const said = message?.text?.content?.trim();
  // What `get` hands over has no session, and no other kind of message a text.
  if (!said || !message.sessionWebhook) return;
  const answer = said === 'ping' ? 'pong' : `you said: ${said}`;
  await client.binding.send(binding, 'reply', { message: answer }, {
    sessionWebhook: message.sessionWebhook,
    sessionWebhookExpiredTime: String(message.sessionWebhookExpiredTime),
  });
});
await server.start();
