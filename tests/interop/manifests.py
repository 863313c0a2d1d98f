"""Manifests of platforms that cannot be run here, and what Spin links: its CLI is in no registry of packages.

    manifests.py wasm-tools REPOSITORY

The fields are those of Spin 4.0.2's manifest (crates/manifest/src/schema), which has no unknown ones, and of the
CRD of wasmCloud 2.7's operator (WorkloadDeployment, runtime.wasmcloud.dev/v1alpha1).
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from support import COMPONENTS, WORK, Table

wasm_tools, repository = sys.argv[1:]
repository = Path(repository)
DINGTALK = ["https://oapi.dingtalk.com"]
# What the gateway reads; names of bindings are the user's.
VARIABLE = re.compile(r"DINGTALK_(BINDINGS|APP_URL|APP_TIMEOUT)|DAPR_API_TOKEN|APP_API_TOKEN|APP_ID|DINGTALK_[A-Z0-9_]+__[A-Z0-9_]+")

# A dict has these members and no others; those with a "!" must be there. A callable says whether a value is right.
text = lambda value: isinstance(value, str) and value != ""  # noqa: E731
texts = lambda value: isinstance(value, list) and all(map(text, value))  # noqa: E731
number = lambda value: isinstance(value, int)  # noqa: E731
variables = lambda value: isinstance(value, dict) and all(VARIABLE.fullmatch(k) and text(v) for k, v in value.items())  # noqa: E731


def wrong(value, shape, path=""):
    """The first place where `value` is not of `shape`, or nothing."""
    if callable(shape):
        return None if shape(value) else f"{path} is {value!r}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{path} is no list"
        found = (wrong(item, shape[0], f"{path}[{at}]") for at, item in enumerate(value))
        return next(filter(None, found), None)
    if not isinstance(value, dict):
        return f"{path} is no table"
    names = {name.rstrip("!"): inner for name, inner in shape.items()}
    for name in shape:
        if name.endswith("!") and name[:-1] not in value:
            return f"{path}.{name[:-1]} is missing"
    for name, item in value.items():
        inner = names.get(name, names.get("*"))
        if inner is None:
            return f"{path}.{name} does not exist"
        if found := wrong(item, inner, f"{path}.{name}"):
            return found
    return None


SPIN = {
    "spin_manifest_version!": lambda value: value == 2,
    "application!": {"name!": text, "version": text, "description": text, "authors": texts, "targets": texts},
    "variables": {"*": {"description": text, "required": lambda value: value is True, "default": text, "secret": lambda value: value in (True, False)}},
    "trigger!": {"http!": [{"id": text, "route!": lambda value: text(value) and value.startswith("/"), "component!": text}]},
    "component!": {
        "*": {
            "source!": text,
            "description": text,
            "variables": {"*": text},
            "environment": variables,
            "allowed_outbound_hosts": texts,
            "targets": texts,
        }
    },
}
CLOUD = {
    "apiVersion!": lambda value: value == "runtime.wasmcloud.dev/v1alpha1",
    "kind!": lambda value: value == "WorkloadDeployment",
    "metadata!": {"name!": text},
    "spec!": {
        "replicas": number,
        "template!": {
            "spec!": {
                "hostSelector": {"*": text},
                "kubernetes": {"service": {"name": text}},
                "components": [
                    {
                        "name!": text,
                        "image!": text,
                        "localResources": {
                            "environment": {"config": variables, "configFrom": [{"name!": text}], "secretFrom": [{"name!": text}]},
                            "allowedHosts": texts,
                        },
                    }
                ],
                "hostInterfaces": [{"namespace!": text, "package!": text, "interfaces": texts, "config": {"*": text}}],
            }
        },
    },
}

table = Table("Spin, not run", "4.0.2")
spin = tomllib.loads((repository / "examples/spin/spin.toml").read_text())
table.row("spin.toml", "as Spin's schema has it", wrong(spin, SPIN) or "as Spin's schema has it")
component = spin["component"][spin["trigger"]["http"][0]["component"]]
table.row("its destinations", DINGTALK, component["allowed_outbound_hosts"])


def older(source, version):
    """A package of WASI 0.2 as of an earlier version: without what came later."""
    later = re.compile(r" *@since\(version = 0\.2\.(\d+)\)\n[^;{]*;\n")
    source = later.sub(lambda found: found[0] if int(found[1]) <= version else "", source)
    return re.sub(r"@0\.2\.\d+", f"@0.2.{version}", source)


world = WORK / "spin"
shutil.rmtree(world, ignore_errors=True)
shutil.copytree(repository / "wit", world / "deps" / "binding", ignore=shutil.ignore_patterns("component"))
shutil.copy(repository / "tests/interop/spin.wit", world)
for file in (repository / "wit/component/deps").glob("*.wit"):
    (world / "deps" / file.name).write_text(older(file.read_text(), 6))


def fits(name):
    check = [wasm_tools, "component", "targets", "--semver-compatible", "-w", "http", world, COMPONENTS / f"{name}.wasm"]
    done = subprocess.run(check, capture_output=True, text=True)
    return "links" if done.returncode == 0 else f"no: {done.stderr.strip().splitlines()[-1].strip()}"


functions = re.findall(r"^ *[a-z-]+: func\(", (repository / "wit/types.wit").read_text(), re.MULTILINE)
table.row("dingtalk:binding/types has functions", [], functions)
table.row("dingtalk-gateway in what it offers", "links", fits("dingtalk-gateway"))
# It has no handler for HTTP, and wants somebody who takes what it receives.
table.row("dingtalk-binding in what it offers", "no", fits("dingtalk-binding")[:2])

table = Table("wasmCloud's operator, not run", "v1alpha1")
documents = yaml.safe_load_all((repository / "examples/wasmcloud/workloaddeployment.yaml").read_text())
[deployment] = [document for document in documents if document["kind"] == "WorkloadDeployment"]
table.row("workloaddeployment.yaml", "as its schema has it", wrong(deployment, CLOUD) or "as its schema has it")
resources = deployment["spec"]["template"]["spec"]["components"][0]["localResources"]
table.row("its destinations", DINGTALK, resources["allowedHosts"])
table.row("its secrets", ["dingtalk-robot"], [secret["name"] for secret in resources["environment"]["secretFrom"]])
