// Answers "ping" with "pong", and repeats any other text.

function reply({ metadata }) {
  const text = metadata.find(([name]) => name === "text")?.[1];
  // A picture, for example, has no text: nothing to say.
  if (text === undefined) return null;
  const content = text === "ping" ? "pong" : text;
  return utf8(JSON.stringify({ msgtype: "text", text: { content } }));
}

export const handler = {
  handle(event) {
    try {
      return reply(event);
    } catch (error) {
      // An object of this shape is a failure that is returned. Any other exception would end the component.
      throw { tag: "failed", val: String(error) };
    }
  },
};

// This engine has no TextEncoder.
function utf8(text) {
  return Uint8Array.from(unescape(encodeURIComponent(text)), (byte) => byte.charCodeAt(0));
}
