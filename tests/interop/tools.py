"""What wasm-tools says of the components, and of the contract.

    tools.py wasm-tools REPOSITORY HANDLER…

HANDLER is a component that exports the handler, built by a program of others.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from support import COMPONENTS, WORK, Table

wasm_tools, repository, *handlers = sys.argv[1:]
repository = Path(repository)


def tool(*arguments):
    """Whether it succeeds, and everything that it says."""
    done = subprocess.run([wasm_tools, *map(str, arguments)], capture_output=True, text=True, timeout=250)
    return done.returncode == 0, done.stdout + done.stderr


def verdict(*arguments):
    """ "yes", or why not; for what is to be refused, "no" is enough."""
    succeeds, said = tool(*arguments)
    return "yes" if succeeds else f"no: {said.strip().splitlines()[-1].strip()}"


def folder(name, sources):
    """A folder of WIT as wasm-tools reads it: a package, and those that it needs in `deps`."""
    made = WORK / name
    shutil.rmtree(made, ignore_errors=True)
    for target, files in sources.items():
        (made / target).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, made / target)
    return made


def since_publication():
    """Both worlds of the contract, against those that were published last."""
    published = max((wit / "published").glob("*.wit"))
    made = folder("contract", {"deps/now": wit.glob("*.wit"), "deps/then": [published]})
    (made / "root.wit").write_text("package interop:contract;\n")
    then = made / "deps" / "then" / published.name
    # Two packages of one name need two versions; how far apart these are is not looked at.
    then.write_text(re.sub(r"(@|since\(version = )\d+\.\d+\.\d+", r"\g<1>0.0.1", then.read_text()))
    now = re.search(r"package dingtalk:binding@(\S+);", (wit / "worlds.wit").read_text())[1]
    for name in ("caller", "handler-app"):
        check = ["component", "semver-check", "--prev", f"dingtalk:binding/{name}@0.0.1"]
        answer = verdict(*check, "--new", f"dingtalk:binding/{name}@{now}", made)
        table.row(f"semver-check {name} since {published.stem}", "yes", answer)



table = Table("wasm-tools", tool("--version")[1].split()[1])
wit, component = repository / "wit", repository / "wit" / "component"
binding = COMPONENTS / "dingtalk-binding.wasm"

for file in sorted(COMPONENTS.glob("*.wasm")):
    table.row(f"validate {file.stem}", "yes", verdict("validate", file))


def listed(kind, written):
    """The imports or exports of a world as it is written, without an order."""
    return " ".join(sorted(re.findall(rf"^  {kind} ([^\s;:]+:[^\s;]+);", written, re.MULTILINE)))


declared = re.search(r"^world binding \{\n.*?^\}", (component / "world.wit").read_text(), re.MULTILINE | re.DOTALL)[0]
printed = tool("component", "wit", binding)[1]
table.row("component wit dingtalk-binding", listed("export", declared), listed("export", printed))

targets = ["component", "targets", "--semver-compatible", "-w"]


def worlds(package, sources, suffix, names):
    """Whether each component has the world of its name; the folder that the worlds are in."""
    deps = {"deps": sources.glob("deps/*.wit"), "deps/binding": wit.glob("*.wit")}
    made = folder(package, {"": sources.glob("*.wit"), **deps})
    for name in names:
        file = COMPONENTS / f"dingtalk-{name}{suffix}.wasm"
        table.row(f"{file.stem} has its world", "yes", verdict(*targets, f"dingtalk:{package}/{name}", made, file))
    return made


world = worlds("component", component, "", ["binding", "gateway", "delivery", "remember", "remember-spin"])
worlds("component-p3", component / "p3", "-p3", ["binding", "gateway"])
for handler in map(Path, handlers):
    # What a language brings along (componentize-py: all of WASI) is no part of the contract.
    exports = [name for name in listed("export", tool("component", "wit", handler)[1]).split() if "dingtalk" in name]
    table.row(f"component wit {handler.stem}", "dingtalk:binding/handler@0.2.0", " ".join(exports))
    table.row(f"{handler.stem} as a binding", "no", verdict(*targets, "dingtalk:component/binding", world, handler)[:2])

# For whoever looks for a component with a fault: what it is, and what it was compiled from.
metadata = tool("metadata", "show", binding)[1]
for said in ["dingtalk-binding", "Apache-2.0", "wit-bindgen-rust", "hmac"]:
    table.row(f"metadata show: {said}", said, said if said in metadata else metadata)
since_publication()
