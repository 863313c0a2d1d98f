"""What the checks of this folder share: lines of the table, DingTalk's signature, programs that serve."""

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "peers" / "python"))

from group import BASE, SECRET, TOKEN, get, outcome  # noqa: E402, F401

URL = f"{BASE}/robot/send?access_token={TOKEN}"
# Not the robot's secret: a program that takes the wrong one of the two is seen.
APP_SECRET = os.environ["APP_SECRET"]
WORK = Path(os.environ["WORK"])
COMPONENTS = Path(os.environ["COMPONENTS"])
# For whatever must happen: nothing here takes longer on any machine that is alive.
PATIENCE = 120


class Table:
    """The rows of one program."""

    def __init__(self, program, version):
        self.names = [program, version]

    def row(self, what, expected, got):
        ok = "ok" if got == expected else f"FAILED, expected {expected!r}"
        cells = [ok, *self.names, what, str(got)]
        print("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in cells), flush=True)


def signed(secret=APP_SECRET, at=None):
    """The headers of a callback, signed as DingTalk documents it, with Python's HMAC."""
    timestamp = str(int((time.time() if at is None else at) * 1000))
    code = hmac.new(secret.encode(), f"{timestamp}\n{secret}".encode(), hashlib.sha256).digest()
    return {
        "timestamp": timestamp,
        "sign": base64.b64encode(code).decode(),
        "Content-Type": "application/json; charset=utf-8",
    }


def message(text):
    """What somebody says to the robot in a group. No two are the same."""
    message.count += 1
    return json.dumps(
        {
            "msgtype": "text",
            "msgId": f"message-{os.getpid()}-{message.count}",
            "senderNick": "Li Si",
            "conversationType": "2",
            "conversationId": "conversation",
            "createAt": int(time.time() * 1000),
            "text": {"content": f" {text}"},
        },
        ensure_ascii=False,
    ).encode()


message.count = 0


def request(method, url, body=None, headers=None):
    """Status, headers in lower case, and body, whatever the status."""
    asked = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, {name.lower(): value for name, value in answer.headers.items()}, answer.read()


def seen():
    """The text that the group saw last."""
    messages = get("/messages")
    return messages[-1]["message"].get("text", {}).get("content") if messages else "nothing"


def content(body):
    """The text of a text message, or the bytes that are none."""
    try:
        return json.loads(body)["text"]["content"]
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")


def callbacks(table, url):
    """Genuine callbacks are answered by the bot, forged ones by nobody."""

    def answered(text, headers):
        status, _, body = request("POST", url, message(text), headers)
        return f"{status} {content(body)}" if status == 200 else str(status)

    table.row("genuine callback", "200 你好", answered("你好", signed()))
    table.row("forged: another secret", "403", answered("ping", signed(secret="another")))
    table.row("forged: signed two hours ago", "403", answered("ping", signed(at=time.time() - 7200)))
    request("PUT", f"{BASE}/callback-url", json.dumps({"url": url}).encode())
    _, _, said = request("POST", f"{BASE}/say", b'{"text":"ping"}')
    table.row(
        "the simulator's callback", "[simulated robot] text pong", " ".join((json.loads(said)["shown"] or "").split())
    )
    request("PUT", f"{BASE}/callback-url", b'{"url":null}')


@contextmanager
def serving(command, ready, patience=PATIENCE, **options):
    """A program that serves, from the line that `ready` finds something in (its URL) to its end by its id."""
    log = WORK / "served"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    try:
        end = time.monotonic() + patience
        while not (found := ready(log.read_text(errors="replace"))):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{command[0]} does not serve:\n{log.read_text(errors='replace')}")
            time.sleep(0.05)
        yield found
    finally:
        # A shell that has started it is in the same group.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)
