// Dapr's own SDK beside `dingtalk-host serve`: it sends, and it receives what a person says.
'use strict';

const { spawn } = require('node:child_process');
const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const net = require('node:net');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { CommunicationProtocolEnum, DaprClient, DaprServer } = require('@dapr/dapr');

const { HOST: program, ROBOT_BASE: base, ROBOT_TOKEN: token, ROBOT_SECRET: secret } = process.env;
const logger = { level: 'error' };

const get = async (path) => (await fetch(base + path)).json();
const json = (method, body) => ({ method, body: JSON.stringify(body) });

function check(name, expected, got) {
  console.log([got === expected ? 'ok' : `FAILED, expected ${expected}`, '@dapr/dapr', name, got].join('\t'));
}

const freePort = () => new Promise((resolve, reject) => {
  const server = net.createServer().once('error', reject).listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => resolve(String(port)));
  });
});

// Resolves with the API's port.
function listening(host) {
  return new Promise((resolve, reject) => {
    let log = '';
    const fail = (why) => reject(new Error(`the host ${why}:\n${log}`));
    setTimeout(() => fail('does not listen'), 60000).unref();
    host.once('exit', () => fail('ended'));
    host.stderr.on('data', (data) => {
      log += data;
      const found = log.match(/HTTP API is listening.*address=\S+:(\d+)/);
      if (found) resolve(found[1]);
    });
  });
}

async function main() {
  const folder = mkdtempSync(join(tmpdir(), 'peers-'));
  const property = (name, value) => `  - name: ${name}\n    value: "${value}"\n`;
  writeFileSync(join(folder, 'robot.yaml'), 'apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: robot\n'
    + 'spec:\n  type: bindings.dingtalk.webhook\n  version: v1\n  metadata:\n' + property('id', 'robot')
    + property('url', `${base}/robot/send?access_token=${token}`) + property('secret', secret));
  const appPort = await freePort();
  const host = spawn(program, ['serve', '--resources-path', folder, '--dapr-http-port', '0', '--app-port', appPort],
    { stdio: ['ignore', 'ignore', 'pipe'] });
  try {
    const daprPort = await listening(host);
    const client = new DaprClient({ daprHost: '127.0.0.1', daprPort, logger });
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
      serverHost: '127.0.0.1', serverPort: appPort, communicationProtocol: CommunicationProtocolEnum.HTTP,
      clientOptions: { daprHost: '127.0.0.1', daprPort, logger }, logger,
    });
    const received = [];
    await server.binding.receive('robot', async (data) => received.push(data));
    await server.start();
    await client.binding.send('robot', 'get', { ask: 'the application' });
    check('get, an object', '{"ask":"the application"}', JSON.stringify(received.shift()));
    if (secret) {
      await fetch(`${base}/callback-url`, json('PUT', { url: `http://127.0.0.1:${daprPort}/v1.0/bindings/robot/callback` }));
      const said = await (await fetch(`${base}/say`, json('POST', { text: 'hello' }))).json();
      check('what a person says, acknowledged', '200', String(said.attempts.at(-1).status));
      check('what a person says, received', 'hello', String(received.shift()?.text?.content).trim());
    }
    await server.stop();
  } finally {
    host.removeAllListeners('exit');
    host.kill('SIGTERM');
    rmSync(folder, { recursive: true });
  }
}

// The SDK keeps timers that would hold the process.
main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
