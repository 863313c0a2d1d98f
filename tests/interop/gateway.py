"""The component that speaks HTTP in runtimes that serve HTTP: examples/wasmtime-serve, examples/wasmcloud, examples/node.

    gateway.py wasmtime REPOSITORY [COMPOSITION…]
    gateway.py wash REPOSITORY
    gateway.py jco REPOSITORY

COMPOSITION is the open gateway with an application in it; it is named after the program that built that.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support import (
    APP_SECRET,
    BASE,
    COMPONENTS,
    SECRET,
    URL,
    WORK,
    Table,
    callbacks,
    content,
    get,
    message,
    outcome,
    request,
    seen,
    serving,
    signed,
)

runtime, repository, *compositions = sys.argv[1:]
examples = Path(repository) / "examples"
TOKEN = "token-of-the-application"
GATEWAY = COMPONENTS / "dingtalk-gateway.wasm"
# The same for WASI 0.3: both programs see by its exports what a component is for.
GATEWAY_P3 = COMPONENTS / "dingtalk-gateway-p3.wasm"
SETTINGS = {
    "DINGTALK_BINDINGS": "team",
    "DINGTALK_TEAM__URL": URL,
    "DINGTALK_TEAM__SECRET": SECRET,
    "DINGTALK_TEAM__APP_SECRET": APP_SECRET,
    "DAPR_API_TOKEN": TOKEN,
}
# What README.md lets curl send, from the specification.
CREATE = b'{\n        "data": {\n          "message": "Hi"\n        },\n        "operation": "create"\n      }'
GET = b'{"data": {"message": "Hi"}, "metadata": {}, "operation": "get"}'
# What the bots in examples/ look at.
PING = b'{"data": "ping", "metadata": {"text": "ping"}, "operation": "get"}'


def version():
    """As the program itself says it."""
    return subprocess.run([runtime, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1 if runtime == "jco" else 1]


def wasmtime(settings, component=GATEWAY):
    env = {**os.environ, **settings, "ADDRESS": "127.0.0.1:0"}
    ready = lambda log: (found := re.search(r"Serving HTTP on (http://[^/\s]+)", log)) and found[1]  # noqa: E731
    return serving([examples / "wasmtime-serve" / "serve", component], ready, env=env)


def jco(settings, component=GATEWAY):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
    ready = lambda log: "Server listening" in log and f"http://127.0.0.1:{port}"  # noqa: E731
    return serving([shutil.which("jco"), "serve", component, "--port", port], ready, env={**os.environ, **settings})


def wash(settings, component=GATEWAY, allowed=None):
    """The example with other addresses: its own is `allowed` where that is not given."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    folder = WORK / "wasmcloud"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(examples / "wasmcloud", folder)
    file = folder / ".wash" / "config.yaml"
    text = file.read_text()
    application = settings.get("DINGTALK_APP_URL", "http://127.0.0.1:6001")
    for old, new in {
        "dingtalk-gateway.wasm": str(component),
        "127.0.0.1:8000": address,
        "http://127.0.0.1:6001": application,
        "https://oapi.dingtalk.com": allowed or BASE,
    }.items():
        if old not in text:
            raise SystemExit(f"examples/wasmcloud/.wash/config.yaml has no {old}")
        text = text.replace(old, new)
    if "DINGTALK_APP_URL" not in settings:
        text = re.sub(r" *DINGTALK_APP_URL:.*\n", "", text)
    file.write_text(text)
    env = {**os.environ, **settings, "HOME": str(WORK / "home")}
    ready = lambda log: "listening for HTTP requests" in log and f"http://{address}"  # noqa: E731
    return serving([shutil.which("wash"), "dev", "--non-interactive"], ready, env=env, cwd=folder)


class Application(BaseHTTPRequestHandler):
    """An application as Dapr's input bindings know it: POST /{binding}; the answer is the reply."""

    taken = []

    def do_OPTIONS(self):
        self.answer(b"")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.taken.append((self.path, body))
        event = json.loads(body)
        text = (event.get("text") or {}).get("content", event.get("message", "")).strip()
        text = "pong" if text == "ping" else text
        self.answer(json.dumps({"msgtype": "text", "text": {"content": text}}).encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # Not in one packet with the head: a guest that is through with a request too early loses it.
        time.sleep(0.05)
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def application():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Application)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def invoke(base, body, token=TOKEN, name="team"):
    headers = {"Content-Type": "application/json", **({"dapr-api-token": token} if token else {})}
    return request("POST", f"{base}/v1.0/bindings/{name}", body, headers)


def problem(answer):
    """Status and error of an operation that failed."""
    status, headers, body = answer
    return f"{status} {headers.get('metadata.error', body.decode(errors='replace'))}"


def creates(table, base):
    answers = []
    table.row("create", "text signed", outcome(lambda: answers.append(invoke(base, CREATE))))
    status, headers, body = answers[0]
    said = " ".join(str(headers.get(f"metadata.{name}")) for name in ("statuscode", "errcode", "errmsg"))
    table.row("it answers", "200 200 0 ok, 0 bytes", f"{status} {said}, {len(body)} bytes")
    table.row("the group saw", "Hi", seen())


def gets(table, base, asked, expected):
    status, _, body = invoke(base, asked)
    table.row("get", f"200 {expected}", f"{status} {content(body)}")


def without_an_application(table, serve, component=GATEWAY):
    with serve({**SETTINGS}, component) as base:
        creates(table, base)
        table.row("get, nothing reads", "500 not-reading", problem(invoke(base, GET)))
        table.row("create without the token", "401", str(invoke(base, CREATE, token=None)[0]))
        table.row("GET /v1.0/healthz", "204", str(request("GET", f"{base}/v1.0/healthz")[0]))
        status, _, body = request("GET", f"{base}/v1.0/metadata", headers={"dapr-api-token": TOKEN})
        table.row("GET /v1.0/metadata names", "200 team", f"{status} {json.loads(body)['components'][0]['name']}")
        status, _, _ = request("POST", f"{base}/v1.0/bindings/team/callback", message("ping"), signed())
        table.row("callback, nothing reads", "503", str(status))


def with_an_application(table, serve, component=GATEWAY):
    with application() as url, serve({**SETTINGS, "DINGTALK_APP_URL": url}, component) as base:
        gets(table, base, GET, "Hi")
        before = len(Application.taken)
        callbacks(table, f"{base}/v1.0/bindings/team/callback")
        paths = " ".join(path for path, _ in Application.taken[before:])
        # The two genuine ones, and nothing of the forged ones.
        table.row("the application got", "/team /team", paths)


def with_a_wrong_setting(table, serve, component=GATEWAY):
    for name, value in {"DINGTALK_TEAM__URL": "ftp://never.shown/", "DINGTALK_TEAM__SECRET": "never shown\n"}.items():
        with serve({**SETTINGS, name: value}, component) as base:
            status, _, body = invoke(base, CREATE)
            body = body.decode(errors="replace")
            named = name if name in body and "never" not in body else body
            table.row(f"create with a wrong {name}", f"500 {name}", f"{status} {named}")


def without_a_token(table, serve, component):
    """A page can point a name of its own at us. wasmtime does not tell what is for WASI 0.3 by which name it was called."""
    with serve({**SETTINGS, "DAPR_API_TOKEN": ""}, component) as base:
        called = [("by its address", base.removeprefix("http://")), ("by another name", "evil.example")]
        for what, host in called:
            is_told = (runtime, component) != ("wasmtime", GATEWAY_P3)
            expected = "200" if is_told and host != "evil.example" else "403"
            status, _, _ = request("GET", f"{base}/v1.0/metadata", headers={"Host": host})
            table.row(f"without a token, {what}", expected, str(status))


def with_another_destination(table, serve, component=GATEWAY):
    """The example's own list, which the simulator is not on."""
    with serve(SETTINGS, component, allowed="https://oapi.dingtalk.com") as base:
        before = get("/stats")["connections"]
        answer = invoke(base, CREATE)
        # The connections that asked for the two counts are counted, too.
        reached = get("/stats")["connections"] - before - 1
        table.row("another destination", "500 unreachable, 0 connections", f"{problem(answer)}, {reached} connections")


def with_a_memory(table, serve):
    """The gateway that keeps messages in the runtime's store, from one instance to the next."""
    with application() as url, serve(
        {**SETTINGS, "DINGTALK_APP_URL": url}, COMPONENTS / "dingtalk-gateway-remember.wasm"
    ) as base:
        callback, said = f"{base}/v1.0/bindings/team/callback", message("你好")
        before = len(Application.taken)
        answers = [request("POST", callback, said, signed()) for _ in range(2)]
        shown = " ".join(f"{status} {content(body)}" for status, _, body in answers)
        deliveries = len(Application.taken) - before
        table.row("with a memory, a copy", "200 你好 200 你好, 1 delivery", f"{shown}, {deliveries} delivery")
        other = json.dumps({**json.loads(said), "text": {"content": "another"}}).encode()
        status, _, _ = request("POST", callback, other, signed())
        table.row("another message of its name", "403", str(status))


def with_two_robots_at_once(table, serve, component):
    """One signs with a secret that is not the group's. Where requests share an instance, neither may go by the other's."""
    other = {"DINGTALK_BINDINGS": "team,other", "DINGTALK_OTHER__URL": URL, "DINGTALK_OTHER__SECRET": "SECwrong"}
    with serve({**SETTINGS, **other}, component) as base, ThreadPoolExecutor(32) as pool:
        names = ["team", "other"] * 100
        answers = pool.map(lambda name: invoke(base, CREATE, name=name)[1].get("metadata.errcode"), names)
        came = Counter(zip(names, answers))
        shown = ", ".join(f"{name} {code} {count}" for (name, code), count in sorted(came.items(), key=str))
        table.row("two robots, 32 at once", "other 310000 100, team 0 100", shown)


def once(table):
    """No server at all: one call of the component for who only sends."""

    def call(secret):
        properties = ", ".join(
            f'("{name}", "{value}")' for name, value in [("id", "team"), ("url", URL), ("secret", secret)]
        )
        written = f'call([{properties}], {{operation: "create", data: {list(b"once")}, metadata: []}})'
        command = [runtime, "run", "-S", "http", "--invoke", written, COMPONENTS / "dingtalk-output.wasm"]
        said.append(subprocess.run(command, capture_output=True, text=True, timeout=250).stdout)

    said = []
    table.row("create", "text signed", outcome(lambda: call(SECRET)))
    table.row("the group saw", "once", seen())
    table.row("create with a wrong secret", "refused 310000", outcome(lambda: call("SECwrong")))
    table.row("it says why", "signature", "signature" if "check: some(signature)" in said[-1] else said[-1])


serve = {"wasmtime": wasmtime, "wash": wash, "jco": jco}[runtime]
program = {"wasmtime": "wasmtime serve", "wash": "wash dev", "jco": "jco serve"}[runtime]
gateways = {GATEWAY: program, GATEWAY_P3: f"{program}, WASI 0.3"}
if runtime == "jco":
    # Of WASI 0.3 it has a preview.
    gateways.pop(GATEWAY_P3)
for component, called in gateways.items():
    table = Table(called, version())
    without_an_application(table, serve, component)
    with_an_application(table, serve, component)
    with_a_wrong_setting(table, serve, component)
    without_a_token(table, serve, component)
    if runtime == "wash":
        with_another_destination(table, serve, component)
    elif runtime == "wasmtime":
        with_two_robots_at_once(table, serve, component)
if runtime == "wash":
    with_a_memory(Table(program, version()), serve)
elif runtime == "wasmtime":
    once(Table("wasmtime run", version()))
for composition in map(Path, compositions):
    table = Table(f"wasmtime serve, {composition.stem.removesuffix('-gateway-open')}", version())
    with serve(SETTINGS, composition) as base:
        creates(table, base)
        gets(table, base, PING, "pong")
        callbacks(table, f"{base}/v1.0/bindings/team/callback")
