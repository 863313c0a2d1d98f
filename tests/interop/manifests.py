"""The manifest for wasmCloud's operator, which needs a cluster.

    manifests.py REPOSITORY

The fields are those of the CRD of wasmCloud 2.7 (runtime-operator/config/crd).
"""

import re
import sys
from pathlib import Path

import yaml

from shapes import text, texts, wrong
from support import Table

# What the gateway reads; names of bindings are the user's.
VARIABLE = re.compile(
    r"DINGTALK_(BINDINGS|APP_URL|APP_TIMEOUT)|DAPR_API_TOKEN|APP_API_TOKEN|APP_ID|DINGTALK_[A-Z0-9_]+__[A-Z0-9_]+"
)


def variables(value):
    return isinstance(value, dict) and all(VARIABLE.fullmatch(name) and text(item) for name, item in value.items())


RESOURCES = {
    "environment": {"config": variables, "configFrom": [{"name!": text}], "secretFrom": [{"name!": text}]},
    "allowedHosts": texts,
}
DEPLOYMENT = {
    "apiVersion!": lambda value: value == "runtime.wasmcloud.dev/v1alpha1",
    "kind!": lambda value: value == "WorkloadDeployment",
    "metadata!": {"name!": text},
    "spec!": {
        "replicas": lambda value: isinstance(value, int),
        "template!": {
            "spec!": {
                "hostSelector": {"*": text},
                "kubernetes": {"service": {"name": text}},
                "components": [{"name!": text, "image!": text, "localResources": RESOURCES}],
                "hostInterfaces": [{"namespace!": text, "package!": text, "interfaces": texts, "config": {"*": text}}],
            }
        },
    },
}

[repository] = map(Path, sys.argv[1:])
table = Table("wasmCloud's operator, not run", "v1alpha1")
documents = yaml.safe_load_all((repository / "examples/wasmcloud/workloaddeployment.yaml").read_text())
[deployment] = [document for document in documents if document["kind"] == "WorkloadDeployment"]
table.row("workloaddeployment.yaml", "as its schema has it", wrong(deployment, DEPLOYMENT) or "as its schema has it")
resources = deployment["spec"]["template"]["spec"]["components"][0]["localResources"]
table.row("its destinations", ["https://oapi.dingtalk.com"], resources["allowedHosts"])
table.row("its secrets", ["dingtalk-robot"], [secret["name"] for secret in resources["environment"]["secretFrom"]])
