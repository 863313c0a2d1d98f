"""What the simulated group sees."""

import os
import urllib.request
from json import load

BASE, TOKEN, SECRET = (os.environ[name] for name in ("ROBOT_BASE", "ROBOT_TOKEN", "ROBOT_SECRET"))


def get(path):
    with urllib.request.urlopen(BASE + path, timeout=10) as answer:
        return load(answer)


def outcome(send):
    """What the group saw of `send`, or the code with which the robot refused: clients differ in what they tell."""
    before = get("/stats")
    send()
    after = get("/stats")
    if after["accepted"] == before["accepted"] + 1:
        message = get("/messages")[-1]
        return f"{message['msgtype']}{' signed' if message['signed'] else ''}"
    codes = [code for code, n in after["rejected"].items() if n != before["rejected"].get(code, 0)]
    return f"refused {' '.join(codes)}"
