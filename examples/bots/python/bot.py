"""Answers "ping" with "pong", and repeats any other text."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.types import Event, HandlerError_Failed


class Handler(exports.Handler):
    def handle(self, event: Event) -> bytes | None:
        try:
            text = dict(event.metadata).get("text")
            # A picture, for example, has no text: nothing to say.
            if text is None:
                return None
            content = "pong" if text == "ping" else text
            return json.dumps({"msgtype": "text", "text": {"content": content}}).encode()
        except Exception as error:
            # A failure that is returned. Any other exception would end the component.
            raise Err(HandlerError_Failed(repr(error)))
