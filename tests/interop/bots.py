"""The bots of examples/bots in this project's own host, the same files that other runtimes run.

    bots.py NAME=VERSION…

Each is the component that this program of this version has built, in the folder of applications.
"""

import os
import re
import sys
import time

from support import APP_SECRET, SECRET, URL, WORK, Table, callbacks, request, serving

# Where the host is not optimised, compiling CPython takes it minutes.
PATIENCE = 900
PING = b'{"data":1,"metadata":{"text":"ping"},"operation":"get"}'

folder = WORK / "resources"
folder.mkdir(exist_ok=True)
properties = {"id": "team", "url": URL, "secret": SECRET, "appSecret": APP_SECRET}
(folder / "team.yaml").write_text(
    "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: team\n"
    "spec:\n  type: bindings.dingtalk.webhook\n  version: v1\n  metadata:\n"
    + "".join(f'  - name: {name}\n    value: "{value}"\n' for name, value in properties.items())
)


def milliseconds(url):
    """The median of some messages, each from request to answer."""
    times = []
    for _ in range(20):
        start = time.monotonic()
        status, _, _ = request("POST", url, PING)
        if status != 200:
            return f"status {status}"
        times.append(time.monotonic() - start)
    return f"{sorted(times)[10] * 1000:.0f} ms"


for named in sys.argv[1:]:
    name, version = named.split("=")
    table = Table(f"{name} in dingtalk-host", version)
    app = WORK / "app" / f"{name}.wasm"
    command = [os.environ["HOST"], "serve", "--resources-path", folder, "--dapr-http-port", "0", "--dapr-grpc-port", "0"]
    command += ["--callback-timeout", "30s", "--handler", app]
    ready = lambda log: (found := re.search(r"HTTP API is listening address=(\S+)", log)) and f"http://{found[1]}"  # noqa: E731
    with serving(command, ready, patience=PATIENCE) as base:
        compiled = re.search(r"handler is compiled .*milliseconds=(\d+)", (WORK / "served").read_text())
        url = f"{base}/v1.0/bindings/team"
        callbacks(table, f"{url}/callback")
        status, _, body = request("POST", url, PING)
        table.row("get", "200 pong", f"{status} {'pong' if b'pong' in body else body}")
        figures = f"compiled in {compiled[1] if compiled else '?'} ms, then {milliseconds(url)} a message"
        table.row(f"figures: {figures}", "", "")
