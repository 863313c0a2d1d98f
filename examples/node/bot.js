// An application: one function, from a message to its reply.
//
// The same file is a Node program's handler (robot.js, jco) and, compiled with componentize-js or componentize-qjs, a
// component of its own that `wac plug` composes with the binding. QuickJS has neither TextDecoder nor TextEncoder.

const fromUtf8 = (bytes) =>
  decodeURIComponent(Array.from(bytes, (byte) => '%' + byte.toString(16).padStart(2, '0')).join(''));
const escaped = (text) =>
  text.replace(/[^\x00-\x7f]/g, (unit) => '\\u' + unit.charCodeAt(0).toString(16).padStart(4, '0'));
const jsonBytes = (value) => Uint8Array.from(escaped(JSON.stringify(value)), (unit) => unit.charCodeAt(0));

function given(data) {
  // What "get" hands over can be anything. Nothing may be thrown that nobody catches: it would end the component.
  try {
    return JSON.parse(fromUtf8(data))?.message;
  } catch {
    return undefined;
  }
}

/** The reply to a message; `undefined` says nothing. */
export function handle({ data, metadata }) {
  const known = Object.fromEntries(metadata);
  const text = known.text ?? given(data);
  if (text === undefined) return undefined;
  const content = text === 'ping' ? 'pong' : `${known.senderNick ?? 'somebody'} said: ${text}`;
  return jsonBytes({ msgtype: 'text', text: { content } });
}

/** What componentize-js and componentize-qjs export as `dingtalk:binding/handler`. */
export const handler = { handle };
