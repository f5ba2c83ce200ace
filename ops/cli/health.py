"""``python -m ops.cli.health [worker]``: for containers; 0 when the storage answers and, if asked, its worker works."""

import sys

import psutil

from common.errors import StorageError
from common.ledger.ledger import Ledger
from common.settings import load


def main() -> int:
    """The exit status."""
    ledger = Ledger(load().ledgers)
    try:
        ledger.ping()
        ready = {worker.worker for worker in ledger.workers() if worker.state == "ready"}
    except StorageError:
        return 1
    finally:
        ledger.close()
    return 0 if "worker" not in sys.argv[1:] or ready & _here() else 1


def _here() -> set[str]:
    """The names of the engine processes of this container, as their parents gave them."""
    words = (word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or ())
    return {word.removeprefix("--worker=") for word in words if word.startswith("--worker=")}


if __name__ == "__main__":
    sys.exit(main())
