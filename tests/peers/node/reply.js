// The example application with Dapr's SDK, beside `dingtalk-host serve`: a person gets its answer.
'use strict';

const { spawn } = require('node:child_process');

const { ROBOT_BASE: base, PROTOCOL: protocol, EXAMPLE: example, DAPR_HTTP_PORT: port } = process.env;
const json = (method, body) => ({ method, body: JSON.stringify(body) });

async function main() {
  const url = `http://127.0.0.1:${port}/v1.0/bindings/robot/callback`;
  await fetch(`${base}/callback-url`, json('PUT', { url }));
  const app = spawn(process.execPath, [example], { env: { ...process.env, BINDING: 'robot' }, stdio: ['ignore', 2, 2] });
  let ended = false;
  app.once('exit', () => { ended = true; });
  let answer = 'nothing';
  // Until it has started, nobody answers; and whoever asks often gets no more for it.
  for (const end = Date.now() + 60000; answer === 'nothing' && !ended && Date.now() < end;) {
    await fetch(`${base}/say`, json('POST', { text: 'ping' }));
    const messages = await (await fetch(`${base}/messages`)).json();
    answer = messages.find((message) => message.message.text?.content === 'pong') ? 'pong' : answer;
  }
  app.kill();
  const verdict = answer === 'pong' ? 'ok' : 'FAILED, expected pong';
  console.log([verdict, `the example, ${protocol}`, 'what a person says, answered with reply', answer].join('\t'));
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
