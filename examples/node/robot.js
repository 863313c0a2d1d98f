// A DingTalk robot in Node: the binding on V8, the application in handler.js.
//
//     node robot.js send TEXT    posts a text message to the group
//     node robot.js get TEXT     hands TEXT to the application and prints what it answers
//     node robot.js serve PORT   takes DingTalk's callbacks on 127.0.0.1:PORT; 0 takes a free port
//
// The environment has the properties: ROBOT_URL, ROBOT_SECRET, ROBOT_APP_SECRET, ROBOT_CODE.

import { createServer } from 'node:http';
import { init, invoke, read } from './binding/dingtalk-binding.js';

const MAX_BODY = 131_072;
const PROPERTIES = {
  url: 'ROBOT_URL',
  secret: 'ROBOT_SECRET',
  appSecret: 'ROBOT_APP_SECRET',
  robotCode: 'ROBOT_CODE',
};

const plain = (value) => JSON.stringify(value, (_, item) => (typeof item === 'bigint' ? Number(item) : item));

function fail(message) {
  console.error(message);
  process.exit(1);
}

function callback(request, response) {
  const reply = (status, body = '', type = 'application/json') =>
    response.writeHead(status, { 'content-type': type }).end(body);
  // Without a length, or with one that no callback has, nothing is read.
  if (!(Number(request.headers['content-length']) <= MAX_BODY)) return reply(413);
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const raw = request.rawHeaders;
    const headers = raw.flatMap((name, at) => (at % 2 ? [] : [[name, Buffer.from(raw[at + 1], 'latin1')]]));
    try {
      const answer = read.receive({ headers, body: Buffer.concat(parts) });
      reply(answer.status, Buffer.from(answer.body), answer.contentType);
    } catch (error) {
      // Who forges learns nothing of what was wrong. What is not acknowledged otherwise, DingTalk sends again.
      console.error(`not answered: ${plain(error.payload) ?? error}`);
      reply(error.payload?.tag === 'refused' ? 403 : 503);
    }
  });
}

const [command, argument] = process.argv.slice(2);
if (!['send', 'get', 'serve'].includes(command) || argument === undefined)
  fail('node robot.js send TEXT | get TEXT | serve PORT');

const given = Object.entries(PROPERTIES).flatMap(([name, variable]) =>
  variable in process.env ? [[name, process.env[variable]]] : [],
);
try {
  init.init([['id', 'node'], ...given]);
  read.read();
} catch ({ payload, message }) {
  fail(payload ? `${PROPERTIES[payload.property] ?? payload.property}: ${payload.reason}` : message);
}

if (command === 'serve') {
  const server = createServer({ requestTimeout: 10_000, headersTimeout: 10_000 }, callback);
  server.listen(Number(argument), '127.0.0.1', () =>
    console.log(`listening on http://127.0.0.1:${server.address().port}`),
  );
} else {
  try {
    const operation = command === 'send' ? 'create' : 'get';
    const answer = invoke.invoke({ operation, data: Buffer.from(argument), metadata: [['text', argument]] });
    console.log(command === 'send' ? plain(answer.metadata) : Buffer.from(answer.data ?? []).toString());
  } catch (error) {
    fail(plain(error.payload) ?? error.stack);
  }
}
