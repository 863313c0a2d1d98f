"""A DingTalk robot in Python: the binding in wasmtime, the application as a Python function.

    python robot.py send TEXT    posts a text message to the group
    python robot.py get TEXT     hands TEXT to the application and prints what it answers
    python robot.py serve PORT   takes DingTalk's callbacks on 127.0.0.1:PORT; 0 takes a free port

The environment has the component's file, ROBOT_COMPONENT, and the properties: ROBOT_URL, ROBOT_SECRET,
ROBOT_APP_SECRET, ROBOT_CODE.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

from wasmtime import Config, Engine, Store, WasiConfig
from wasmtime.component import Component, Linker

MAX_BODY = 131_072
PROPERTIES = {
    "url": "ROBOT_URL",
    "secret": "ROBOT_SECRET",
    "appSecret": "ROBOT_APP_SECRET",
    "robotCode": "ROBOT_CODE",
}


def answer(event):
    """The application: the reply to a message, as bytes; `None` says nothing."""
    text = dict(event.metadata).get("text")
    # A picture, for example, has no text.
    if text is None:
        return None
    content = "pong" if text == "ping" else text
    return json.dumps({"msgtype": "text", "text": {"content": content}}).encode()


class Robot:
    def __init__(self, component, properties):
        config = Config()
        config.consume_fuel = True
        # Compiling takes wasmtime seconds for a large application; the second start finds the result.
        config.cache = True
        self.engine = Engine(config)
        self.component = Component.from_file(self.engine, component)
        self.properties = [("id", "python")] + list(properties.items())
        self.linker = Linker(self.engine)
        # The store's WASI is empty: no files, no environment, no standard streams.
        self.linker.add_wasip2()
        self.linker.add_wasi_http()
        with self.linker.root() as root, root.add_instance("dingtalk:binding/handler@0.2.0") as handler:
            # An exception here ends the call that led to it, and reaches whoever made that.
            handler.add_func("handle", lambda _store, event: answer(event))

    def call(self, interface, function, *arguments):
        """One call in an instance of its own. A result that is an error comes back as it is."""
        store = Store(self.engine)
        store.set_fuel(2_000_000_000)
        store.set_limits(memory_size=256 << 20)
        store.set_wasi(WasiConfig())
        store.set_wasi_http()
        instance = self.linker.instantiate(store, self.component)

        def export(interface, function):
            index = instance.get_export_index(store, f"dingtalk:binding/{interface}@0.2.0")
            return instance.get_func(store, instance.get_export_index(store, function, index))

        wrong = export("init", "init")(store, self.properties)
        if wrong is not None:
            raise SystemExit(f"{PROPERTIES.get(wrong.property, wrong.property)}: {wrong.reason}")
        export("read", "read")(store)
        return export(interface, function)(store, *arguments)

    def invoke(self, operation, text):
        request = SimpleNamespace(operation=operation, data=text.encode(), metadata=[("text", text)])
        return self.call("invoke", "invoke", request)

    def receive(self, headers, body):
        return self.call("read", "receive", SimpleNamespace(**{"headers": headers, "body": body}))


def plain(value):
    """A value of the component as text: records as {name: value}, cases as tag(value)."""
    if hasattr(value, "tag"):
        return value.tag if value.payload is None else f"{value.tag}({plain(value.payload)})"
    if hasattr(value, "__dict__"):
        return "{" + ", ".join(f"{name}: {plain(item)}" for name, item in vars(value).items()) + "}"
    return str(value)


class Callbacks(BaseHTTPRequestHandler):
    robot = None
    # Of a connection that says nothing.
    timeout = 10

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
            return self.reply(413)
        headers = [(name, value.encode("latin-1")) for name, value in self.headers.items()]
        try:
            reply = self.robot.receive(headers, self.rfile.read(int(length)))
        except Exception as error:
            # Not acknowledged: DingTalk sends it again.
            print(f"not answered: {error}", file=sys.stderr)
            return self.reply(503)
        if hasattr(reply, "status"):
            return self.reply(reply.status, reply.body, getattr(reply, "content-type"))
        print(f"refused: {plain(reply)}", file=sys.stderr)
        # Who forges learns nothing of what was wrong.
        self.reply(403 if reply.tag == "refused" else 503)

    def reply(self, status, body=b"", content_type="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("send", "get", "serve"):
        raise SystemExit(__doc__)
    command, argument = sys.argv[1:]
    properties = {name: os.environ[variable] for name, variable in PROPERTIES.items() if variable in os.environ}
    robot = Robot(os.environ["ROBOT_COMPONENT"], properties)
    if command == "serve":
        Callbacks.robot = robot
        server = ThreadingHTTPServer(("127.0.0.1", int(argument)), Callbacks)
        print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
        return server.serve_forever()
    result = robot.invoke("create" if command == "send" else "get", argument)
    if result.tag == "err":
        raise SystemExit(plain(result.payload))
    print(plain(result.payload.metadata) if command == "send" else (result.payload.data or b"").decode())


if __name__ == "__main__":
    main()
