"""What wasm-tools says of the components, and of the contract.

    tools.py wasm-tools REPOSITORY HANDLER…
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
    succeeds, said = tool(*arguments)
    return "yes" if succeeds else f"no: {said.strip().splitlines()[-1]}"


def refused(*arguments):
    succeeds, said = tool(*arguments)
    return "yes" if succeeds else "no"


def packages(name, sources):
    """A folder of WIT with the package of this repository and those that it needs."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    for target, files in sources.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, folder / target)
    return folder


def older(text, version):
    """A package of WASI 0.2 as of an earlier `version`: without what came later."""
    later = re.compile(r" *@since\(version = 0\.2\.(\d+)\)\n[^;{]*;\n")
    text = later.sub(lambda found: found[0] if int(found[1]) <= version else "", text)
    return re.sub(r"@0\.2\.\d+", f"@0.2.{version}", text)


table = Table("wasm-tools", tool("--version")[1].split()[1])
wit, component = repository / "wit", repository / "wit" / "component"
world = packages(
    "world",
    {"": component.glob("*.wit"), "deps": component.glob("deps/*.wit"), "deps/binding": wit.glob("*.wit")},
)
binding = COMPONENTS / "dingtalk-binding.wasm"
for file in sorted(COMPONENTS.glob("*.wasm")):
    table.row(f"validate {file.stem}", "yes", verdict("validate", "--features", "component-model", file))
exports = re.findall(r"^  export (\S+);", tool("component", "wit", binding)[1], re.MULTILINE)
table.row(
    "component wit dingtalk-binding",
    "dingtalk:binding/init@0.2.0 dingtalk:binding/invoke@0.2.0 dingtalk:binding/read@0.2.0",
    " ".join(exports),
)
target = ["component", "targets", "-w"]
table.row("dingtalk-binding targets its world", "yes", verdict(*target, "dingtalk:component/binding", world, binding))
for handler in handlers:
    table.row(f"{Path(handler).stem} targets handler-app", "yes", verdict("component", "targets", "--semver-compatible", "-w", "handler-app", wit, handler))
