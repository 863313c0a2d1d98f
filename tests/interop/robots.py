"""The binding in a language's own runtime: examples/python and examples/node, and compositions in the former.

robots.py PROGRAM VERSION all|composed COMMAND…
"""

import os
import re
import subprocess
import sys

from support import APP_SECRET, SECRET, URL, Table, callbacks, content, get, outcome, seen, serving

program, version, extent, *command = sys.argv[1:]
table = Table(program, version)
settings = {
    "ROBOT_URL": URL,
    "ROBOT_SECRET": SECRET,
    "ROBOT_APP_SECRET": APP_SECRET,
    # Of examples/node: without it, DingTalk alone can be reached.
    "ROBOT_EGRESS_HOSTS": URL.split("/")[2],
}


def robot(*arguments, without=(), **changed):
    """Status, output and errors of one command."""
    env = {name: value for name, value in {**os.environ, **settings, **changed}.items() if name not in without}
    done = subprocess.run([*command, *arguments], env=env, capture_output=True, text=True, timeout=250)
    return done.returncode, done.stdout.strip(), done.stderr


text = f"Hi from {program}, 你好"
sent = outcome(lambda: robot("send", text))
table.row("create", "text signed", sent)
table.row("the group saw", text, seen())

if extent == "all":
    answers = []
    table.row(
        "create with a wrong secret",
        "refused 310000",
        outcome(lambda: answers.append(robot("send", text, ROBOT_SECRET="SECwrong"))),
    )
    _, _, errors = answers[0]
    table.row("it says why", "signature", "signature" if "310000" in errors and "signature" in errors else errors)
    _, _, errors = robot("send", text, ROBOT_URL="ftp://secret.example/")
    table.row(
        "init with a wrong url",
        "ROBOT_URL",
        "ROBOT_URL" if "ROBOT_URL" in errors and "secret.example" not in errors else errors,
    )
    if program == "jco":
        before = get("/stats")["connections"]
        _, _, errors = robot("send", text, without=["ROBOT_EGRESS_HOSTS"])
        # The connections that asked for the two counts are counted, too.
        reached = get("/stats")["connections"] - before - 1
        table.row(
            "another destination",
            "refused, 0 connections",
            f"{'refused' if 'does not allow' in errors else errors}, {reached} connections",
        )
    table.row("get", "pong", content(robot("get", "ping")[1].encode()))

with serving(
    [*command, "serve", "0"],
    lambda log: (found := re.search(r"listening on (http://\S+)", log)) and found[1],
    env={**os.environ, **settings},
) as url:
    callbacks(table, url)
