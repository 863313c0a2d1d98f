"""examples/spin, which is not run in Spin.

    spin.py REPOSITORY wasm-tools wasmtime [componentize-qjs]

The fields are those of Spin 4.0.2's manifest (crates/manifest/src/schema) and of SpinKube's CRD. In the place of `spin
build` its commands are run, in that of Spin's linker stands what it has, and in that of Spin `wasmtime serve` with
variables.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from shapes import text, texts, wrong
from support import APP_SECRET, COMPONENTS, SECRET, URL, WORK, Table, outcome, request, seen, serving

repository, wasm_tools, wasmtime, *componentize = sys.argv[1:]
repository = Path(repository)
ID = re.compile(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)*")
flag = lambda value: isinstance(value, bool)  # noqa: E731
VARIABLE = {"description": text, "required": flag, "default": lambda value: isinstance(value, str), "secret": flag}
MANIFEST = {
    "spin_manifest_version!": lambda value: value == 2,
    "application!": {"name!": text, "version": text, "description": text, "authors": texts},
    "variables": {"*": VARIABLE},
    "trigger!": {
        "http!": [{"id": text, "route!": lambda value: text(value) and value.startswith("/"), "component!": text}]
    },
    "component!": {
        "*": {
            "source!": text,
            "description": text,
            "variables": lambda value: all(
                ID.fullmatch(name) and isinstance(item, str) for name, item in value.items()
            ),
            "environment": {"*": text},
            "allowed_outbound_hosts": texts,
            "build": {"command!": lambda value: text(value) or texts(value), "workdir": text, "watch": texts},
        }
    },
}
REFERENCE = {"secretKeyRef!": {"name!": text, "key!": text, "optional": flag}}
SPINAPP = {
    "apiVersion!": lambda value: value == "core.spinkube.dev/v1alpha1",
    "kind!": lambda value: value == "SpinApp",
    "metadata!": {"name!": text},
    "spec!": {
        "image!": text,
        "executor": text,
        "replicas": lambda value: isinstance(value, int),
        "variables": [{"name!": text, "value": text, "valueFrom": REFERENCE}],
    },
}

table = Table("Spin, not run", "4.0.2")
folder = WORK / "spin"
shutil.rmtree(folder, ignore_errors=True)
shutil.copytree(repository / "examples/spin", folder)
spin = tomllib.loads((folder / "spin.toml").read_text())
table.row("spin.toml", "as Spin's schema has it", wrong(spin, MANIFEST) or "as Spin's schema has it")
component = spin["component"][spin["trigger"]["http"][0]["component"]]
table.row("its destinations", ["https://oapi.dingtalk.com"], component["allowed_outbound_hosts"])
used = sorted(re.findall(r"\{\{ (\w+) \}\}", " ".join(component["variables"].values())))
table.row("its variables are declared", sorted(spin["variables"]), used)
app = yaml.safe_load((folder / "spinapp.yaml").read_text())
table.row("spinapp.yaml", "as its schema has it", wrong(app, SPINAPP) or "as its schema has it")
table.row("it gives them", sorted(spin["variables"]), sorted(variable["name"] for variable in app["spec"]["variables"]))


def older(source, version):
    """A package of WASI 0.2 as of an earlier version: without what came later."""
    later = re.compile(r" *@since\(version = 0\.2\.(\d+)\)\n[^;{]*;\n")
    source = later.sub(lambda found: found[0] if int(found[1]) <= version else "", source)
    return re.sub(r"@0\.2\.\d+", f"@0.2.{version}", source)


own = repository / "tests/interop/spin"
world = WORK / "spin-world"
shutil.rmtree(world, ignore_errors=True)
shutil.copytree(repository / "wit", world / "deps" / "binding", ignore=shutil.ignore_patterns("component"))
shutil.copy(own / "world.wit", world)
shutil.copy(own / "variables.wit", world / "deps")
for file in (repository / "wit/component/deps").glob("*.wit"):
    (world / "deps" / file.name).write_text(older(file.read_text(), 6))
# In the place of what is used of it.
shutil.copy(own / "keyvalue-draft2.wit", world / "deps")


def linked(file):
    check = [wasm_tools, "component", "targets", "--semver-compatible", "-w", "interop:spin/http", world, file]
    done = subprocess.run(check, capture_output=True, text=True)
    return "yes" if done.returncode == 0 else f"no: {done.stderr.strip().splitlines()[-1].strip()}"


functions = re.findall(r"^ *[a-z-]+: func\(", (repository / "wit/types.wit").read_text(), re.MULTILINE)
table.row("functions in dingtalk:binding/types", [], functions)
for name in ["dingtalk-gateway", "dingtalk-gateway-remember-spin"]:
    table.row(f"{name} can be linked", "yes", linked(COMPONENTS / f"{name}.wasm"))
# No two drafts of the store link with each other.
table.row("dingtalk-gateway-remember can be linked", "no", linked(COMPONENTS / "dingtalk-gateway-remember.wasm")[:2])
# It has no handler for HTTP, and wants somebody who takes what it receives.
table.row("dingtalk-binding can be linked", "no", linked(COMPONENTS / "dingtalk-binding.wasm")[:2])
if not componentize:
    print("!!! SKIPPED: the commands of `spin build`: without Node there is no componentize-qjs", file=sys.stderr)
    raise SystemExit


def command(line):
    subprocess.run(line, shell=True, check=True, cwd=folder, stdout=subprocess.DEVNULL)


shutil.copy(COMPONENTS / "dingtalk-gateway.wasm", folder)
for line in component["build"]["command"]:
    command(line)
table.row("what `spin build` makes can be linked", "yes", linked(folder / component["source"]))

# As Spin does: the values of the application's variables take the place of their names.
values = {"team_url": URL, "team_secret": SECRET, "team_app_secret": APP_SECRET, "dapr_api_token": "token"}
variables = {
    name: re.sub(r"\{\{ (\w+) \}\}", lambda found: values[found[1]], item)
    for name, item in component["variables"].items()
}
source = (own / "variables.js").read_text().replace("= VALUES;", f"= {json.dumps(variables)};")
(folder / "fixed.js").write_text(source)
flags = "--sync --opt-size --stub-wasi"
command(f"{componentize[0]} --wit {own / 'variables.wit'} --world fixed --js fixed.js {flags} --output fixed.wasm")
command(f"wac plug --plug fixed.wasm {component['source']} --output served.wasm")
version = subprocess.run([wasmtime, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
table = Table("Spin's build in wasmtime serve", version)
ready = lambda log: (found := re.search(r"Serving HTTP on (http://[^/\s]+)", log)) and found[1]  # noqa: E731
with serving([wasmtime, "serve", "--addr", "127.0.0.1:0", folder / "served.wasm"], ready) as base:
    body, headers = b'{"operation":"create","data":{"message":"by variables"}}', {"dapr-api-token": "token"}
    url = f"{base}/v1.0/bindings/team"
    table.row("create", "text signed", outcome(lambda: request("POST", url, body, headers)))
    table.row("the group saw", "by variables", seen())
    table.row("create without the token", "401", str(request("POST", url, body)[0]))
