// Every message that three clients for Node.js offer, sent to the simulator.
'use strict';

const { ROBOT_BASE: base, ROBOT_TOKEN: token, ROBOT_SECRET: secret } = process.env;
const webhook = `${base}/robot/send`;
const picture = 'https://example.com/p.png';
const url = 'https://example.com/';

const get = async (path) => (await fetch(base + path)).json();
const seen = (msgtype) => (secret ? `${msgtype} signed` : msgtype);

// What the group saw, or the code with which the robot refused: clients differ in what they tell.
async function check(client, name, expected, send) {
  const before = await get('/stats');
  await send();
  let after = await get('/stats');
  // One client returns before it has sent.
  for (let waited = 0; after.requests === before.requests && waited < 10000; waited += 20) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    after = await get('/stats');
  }
  let got;
  if (after.accepted === before.accepted + 1) {
    const message = (await get('/messages')).at(-1);
    got = message.msgtype + (message.signed ? ' signed' : '');
  } else {
    const codes = Object.keys(after.rejected).filter((code) => after.rejected[code] !== before.rejected[code]);
    got = `refused ${codes.join(' ')}`;
  }
  console.log([got === expected ? 'ok' : `FAILED, expected ${expected}`, client, name, got].join('\t'));
}

async function sender() {
  const Robot = require('dingtalk-robot-sender');
  const robot = new Robot({ webhook: `${webhook}?access_token=${token}`, secret });
  const btns = [{ title: 'one', actionURL: url }, { title: 'two', actionURL: url }];
  const test = (name, expected, send) => check('dingtalk-robot-sender', name, expected, send);
  await test('text', seen('text'), () => robot.text('hello'));
  await test('text with mentions', seen('text'), () =>
    robot.text('hello @13800000000', { atMobiles: ['13800000000'], isAtAll: false }));
  await test('link', seen('link'), () => robot.link({ title: 'title', text: 'text', messageUrl: url, picUrl: picture }));
  await test('markdown', seen('markdown'), () => robot.markdown('title', '# text', { isAtAll: true }));
  await test('action card, switches as numbers', seen('actionCard'), () =>
    robot.actionCard({ title: 'title', text: 'text', btns }));
  await test('action card, switches as texts', seen('actionCard'), () =>
    robot.actionCard({ title: 'title', text: 'text', btns, hideAvatar: '1', btnOrientation: '1' }));
  await test('feed card', seen('feedCard'), () =>
    robot.feedCard([{ title: 'feed', messageURL: url, picURL: picture }]));
  await test('the JSON of another type', 'refused 400105', () => robot.send({ msgtype: 'file', file: {} }));
}

// Two packages with the same classes: one in TypeScript, one older.
async function classes(client, { Text, Link, Markdown, ActionCard, FeedCard }, robot) {
  const test = (name, expected, message) => check(client, name, expected, () => robot.send(message));
  await test('text', seen('text'), new Text('hello'));
  await test('text with mentions', seen('text'), new Text('hello @13800000000').atPhone('13800000000').atId('x').atAll());
  await test('link', seen('link'), new Link('text').setTitle('title').setUrl(url).setImage(picture));
  await test('link without a picture', seen('link'), new Link('text').setTitle('title').setUrl(url));
  await test('markdown', seen('markdown'), new Markdown().setTitle('title').add('# text').atPhone('13800000000'));
  const card = () => new ActionCard().setTitle('title').setText('text').setHideAvatar(1).setBtnOrientation(1);
  await test('action card, one button', seen('actionCard'), card().setSingleTitle('open').setSingleURL(url));
  await test('action card, two buttons', seen('actionCard'),
    card().setBtns([{ title: 'one', actionURL: url }, { title: 'two', actionURL: url }]));
  await test('feed card', seen('feedCard'), new FeedCard([{ title: 'feed', messageURL: url, picURL: picture }]));
}

async function main() {
  await sender();
  const typed = require('ts-dingtalk-robot');
  await classes('ts-dingtalk-robot', typed, new typed.Robot({ accessToken: token, secret, webhook }));
  const Sdk = require('dingtalk-robot-sdk');
  const robot = new Sdk({ accessToken: token, secret });
  // It has no option for another address.
  robot.webhook = `${webhook}?access_token=${token}`;
  await classes('dingtalk-robot-sdk', Sdk, robot);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
