"""Dapr's own SDK beside `dingtalk-host serve`: it sends over gRPC, and receives what a person says over gRPC."""

import json
import os
import queue
import threading
import urllib.request

import grpc
from dapr.clients import DaprClient
from dapr.ext.grpc import App, BindingRequest

from group import BASE, SECRET, get

CALLBACK = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/bindings/robot/callback"
received = queue.Queue()
app = App()


@app.binding("robot")
def robot(request: BindingRequest):
    received.put(request)


def check(name, expected, got):
    print("\t".join(["ok" if got == expected else f"FAILED, expected {expected}", "dapr (Python)", name, got]), flush=True)


def tell(method, path, body):
    request = urllib.request.Request(BASE + path, json.dumps(body).encode(), method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def sends(client):
    message = {"msgtype": "text", "text": {"content": "from the SDK"}}
    answer = client.invoke_binding("robot", "create", json.dumps(message))
    seen = get("/messages")[-1]
    got = seen["message"]["text"]["content"] + (" signed" if seen["signed"] else "")
    check("create, an object", "from the SDK signed" if SECRET else "from the SDK", got)
    check("create, its metadata", "0", answer.binding_metadata.get("errcode", "none"))
    client.invoke_binding("robot", "create", b"short", {"msgtype": "markdown", "title": "title"})
    check("create, with metadata", "markdown", get("/messages")[-1]["msgtype"])
    try:
        client.invoke_binding("robot", "create", '{"msgtype":"file"}')
        got = "taken"
    except grpc.RpcError as error:
        got = f"{error.code().name} 400105" if "400105" in error.details() else error.details()
    check("create, refused by the robot", "INTERNAL 400105", got)


def receives(client):
    client.invoke_binding("robot", "get", b"\x00\xff")
    check("get, bytes", r"b'\x00\xff'", str(received.get(timeout=30).data))
    if not SECRET:
        return
    tell("PUT", "/callback-url", {"url": CALLBACK})
    said = json.loads(tell("POST", "/say", {"text": "hello"}))
    check("what a person says, acknowledged", "200", str(said["attempts"][-1]["status"]))
    event = received.get(timeout=30)
    check("what a person says, received", "hello", json.loads(event.data)["text"]["content"].strip())
    # It shows what came beside the call, of which the token is the host's proof.
    check("what a person says, the host's token", "['app0token']", str(event.metadata.get("dapr-api-token")))


threading.Thread(target=app.run, args=(int(os.environ["APP_PORT"]),), daemon=True).start()
with DaprClient() as client:
    sends(client)
    receives(client)
app.stop()
