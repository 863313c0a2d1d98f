"""An application: one function, from a message to its reply.

The same file is a Python program's handler (robot.py, wasmtime) and, compiled with componentize-py, a component of its
own that `wac plug` composes with the binding.
"""

import json


def answer(data, metadata):
    """The reply to a message, as bytes; `None` says nothing."""
    known = dict(metadata)
    text = known.get("text")
    if text is None:
        # What "get" hands over can be anything. Nothing may be raised that nobody catches: it would end the component.
        try:
            message = json.loads(data)
        except ValueError:
            message = None
        text = message.get("message") if isinstance(message, dict) else None
    if text is None:
        return None
    content = "pong" if text == "ping" else f"{known.get('senderNick', 'somebody')} said: {text}"
    return json.dumps({"msgtype": "text", "text": {"content": content}}).encode()


class Handler:
    """What componentize-py exports as `dingtalk:binding/handler`."""

    def handle(self, event):
        return answer(event.data, event.metadata)
