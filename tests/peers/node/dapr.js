// Dapr's own SDK beside `dingtalk-host serve`, over HTTP or gRPC: it sends, and it receives what a person says.
'use strict';

const { CommunicationProtocolEnum, DaprClient, DaprServer } = require('@dapr/dapr');

const { ROBOT_BASE: base, ROBOT_SECRET: secret, PROTOCOL: protocol } = process.env;
const { DAPR_HTTP_PORT, DAPR_GRPC_PORT, APP_PORT, DAPR_API_TOKEN: daprApiToken } = process.env;
const communicationProtocol = protocol === 'grpc' ? CommunicationProtocolEnum.GRPC : CommunicationProtocolEnum.HTTP;
const daprPort = protocol === 'grpc' ? DAPR_GRPC_PORT : DAPR_HTTP_PORT;
const clientOptions = {
  daprHost: '127.0.0.1', daprPort, communicationProtocol, daprApiToken, logger: { level: 'error' },
};

const get = async (path) => (await fetch(base + path)).json();
const json = (method, body) => ({ method, body: JSON.stringify(body) });

function check(name, expected, got) {
  console.log([got === expected ? 'ok' : `FAILED, expected ${expected}`, `@dapr/dapr, ${protocol}`, name, got].join('\t'));
}

async function main() {
  const client = new DaprClient(clientOptions);
  await client.binding.send('robot', 'create', { msgtype: 'text', text: { content: 'from the SDK' } });
  const message = (await get('/messages')).at(-1);
  check('create, an object', `from the SDK${secret ? ' signed' : ''}`,
    message.message.text.content + (message.signed ? ' signed' : ''));
  await client.binding.send('robot', 'create', { message: 'short' }, { msgtype: 'markdown', title: 'title' });
  check('create, with metadata', 'markdown', (await get('/messages')).at(-1).msgtype);
  const refused = await client.binding.send('robot', 'create', { msgtype: 'file' }).then(() => 'taken', (error) =>
    (String(error.message).includes('400105') ? 'refused 400105' : String(error.message)));
  check('create, refused by the robot', 'refused 400105', refused);

  const server = new DaprServer({
    serverHost: '127.0.0.1', serverPort: APP_PORT, communicationProtocol, clientOptions, logger: { level: 'error' },
  });
  const received = [];
  await server.binding.receive('robot', async (data) => received.push(data));
  await server.start();
  await client.binding.send('robot', 'get', { ask: 'the application' });
  check('get, an object', '{"ask":"the application"}', JSON.stringify(received.shift()));
  if (secret) {
    await fetch(`${base}/callback-url`, json('PUT', { url: `http://127.0.0.1:${DAPR_HTTP_PORT}/v1.0/bindings/robot/callback` }));
    const said = await (await fetch(`${base}/say`, json('POST', { text: 'hello' }))).json();
    check('what a person says, acknowledged', '200', String(said.attempts.at(-1).status));
    check('what a person says, received', 'hello', String(received.shift()?.text?.content).trim());
  }
  await server.stop();
}

// The SDK keeps timers that would hold the process.
main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
