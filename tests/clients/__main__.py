"""``make clients``: the SDKs of other languages against the bundled model; needs node and npm."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common.settings import REPOSITORY
from ops.bench.stack import Stack

HERE = Path(__file__).parent
BUILD = REPOSITORY / "build" / "clients"


def main() -> int:
    npm, node = (shutil.which(name) for name in ("npm", "node"))
    if npm is None or node is None:
        sys.stderr.write("make clients needs node and npm.\n")
        return 2
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "check.mjs"):
        shutil.copy(HERE / name, BUILD)
    subprocess.run([npm, "install", "--no-audit", "--no-fund", "--silent"], cwd=BUILD, check=True)
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder))
        try:
            return subprocess.run([node, "check.mjs", stack.wait_ready().url], cwd=BUILD, check=False).returncode
        finally:
            stack.stop()


if __name__ == "__main__":
    sys.exit(main())
