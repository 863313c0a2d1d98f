"""The manifests of examples/dapr/kubernetes, which need a cluster: read by Kubernetes' own types, and what they promise.

    kubernetes.py REPOSITORY READER

READER is the program of tests/interop/kubernetes, built.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from support import SECRET, URL, Table

HOST = os.environ["HOST"]
# Annotations that Dapr 1.18 reads (pkg/injector/annotations), and Prometheus' usual ones.
ANNOTATIONS = {
    "dapr.io/enabled",
    "dapr.io/app-id",
    "dapr.io/app-port",
    "dapr.io/pluggable-components",
    "dapr.io/enable-native-sidecar",
    "prometheus.io/scrape",
    "prometheus.io/port",
}


def posture(pod, container):
    """What is missing, or nothing."""
    own, of_pod = container.get("securityContext", {}), pod.get("securityContext", {})
    wanted = {
        "runAsNonRoot": of_pod.get("runAsNonRoot") is True,
        "another user than root": of_pod.get("runAsUser", 0) > 0,
        "seccomp": of_pod.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        "no escalation": own.get("allowPrivilegeEscalation") is False,
        "read-only root": own.get("readOnlyRootFilesystem") is True,
        "no capabilities": own.get("capabilities", {}).get("drop") == ["ALL"],
        "a limit of memory": "memory" in container.get("resources", {}).get("limits", {}),
    }
    ports = {port.get("name") for port in container["ports"]}
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"]:
        asked = container.get(probe, {}).get("httpGet", {})
        wanted[probe] = asked.get("path") == "/v1.0/healthz" and asked.get("port") in ports
    mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
    wanted["volumes"] = mounted <= {volume["name"] for volume in pod.get("volumes", [])}
    return ", ".join(name for name, right in wanted.items() if not right) or "all of it"


def flags(arguments):
    """The flags that the program does not have; `None` if it has not even the command."""
    command, *given = arguments
    told = subprocess.run([HOST, command, "--help"], capture_output=True, text=True)
    if told.returncode != 0:
        return None
    known = set(re.findall(r"--[a-z][a-z-]*", told.stdout))
    return ", ".join(flag for flag in (one.split("=")[0] for one in given) if flag not in known) or "all known"


[repository, reader] = map(Path, sys.argv[1:])
folder = repository / "examples/dapr/kubernetes"
files = sorted(folder.glob("*.yaml"))
table = Table("Kubernetes, not run", "v1")
read = subprocess.run([reader, *files], capture_output=True, text=True)
table.row("its own types read the manifests", "", read.stderr.strip())
seen = [line.split("\t") for line in read.stdout.splitlines()]
strictly = {(file, what) for file, what, how in seen if how == "as its API has it"}
table.row("how many documents", 6, len(strictly))

for file in files:
    documents = list(yaml.safe_load_all(file.read_text()))
    [deployment] = [document for document in documents if document["kind"] == "Deployment"]
    template = deployment["spec"]["template"]
    pod, labels = template["spec"], template["metadata"]["labels"]
    annotations = template["metadata"].get("annotations", {})
    containers = {container["name"]: container for container in pod["containers"]}
    table.row(f"{file.name}: what its container may not do", "all of it", posture(pod, containers["dingtalk"]))
    table.row(f"{file.name}: annotations", set(), set(annotations) - ANNOTATIONS)
    found = flags(containers["dingtalk"]["args"])
    if found is None:
        print(f"!!! SKIPPED: flags of {file.name}: its command is not in this program", file=sys.stderr)
    else:
        table.row(f"{file.name}: flags", "all known", found)
    for document in documents:
        if document["kind"] == "Service":
            ports = {port["targetPort"] for port in document["spec"]["ports"]}
            named = {port.get("name") for port in containers["dingtalk"]["ports"]}
            right = document["spec"]["selector"].items() <= labels.items() and ports <= named
            table.row(f"{file.name}: the service finds the pod's port", True, right)
    if pluggable := annotations.get("dapr.io/pluggable-components"):
        # daprd is put at the end, and looks once.
        first = pod["containers"][0]
        table.row(f"{file.name}: the pluggable component starts first", pluggable, first["name"])
        waits = " ".join(first["lifecycle"]["postStart"]["exec"]["command"])
        table.row(f"{file.name}: and lets nobody start before its socket", True, "/dingtalk.webhook.sock" in waits)

# The component files in the ConfigMap, with a secrets file as the Secret has it: a message is posted.
[components] = [
    document["data"]
    for document in yaml.safe_load_all((folder / "sidecar.yaml").read_text())
    if document["kind"] == "ConfigMap"
]
with tempfile.TemporaryDirectory() as there:
    there = Path(there)
    secrets = there / "robots.json"
    secrets.write_text(f'{{"team": {{"url": "{URL}", "secret": "{SECRET}"}}}}')
    secrets.chmod(0o600)
    for name, text in components.items():
        (there / name).write_text(text.replace("/secrets/robots.json", str(secrets)))
    sent = subprocess.run(
        [HOST, "invoke", "--component", there / "team.yaml", "--resources-path", there, "--data", "from a pod"],
        capture_output=True,
        text=True,
    )
    table.row("sidecar.yaml: its components send", (0, ""), (sent.returncode, sent.stderr.strip()))
