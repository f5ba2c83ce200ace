"""``python -m ops.cli.health [worker]``: for containers; 0 when the storage answers and, if asked, a worker serves."""

import sys

from common.errors import StorageError
from common.ledger.ledger import Ledger
from common.settings import load


def main() -> int:
    """The exit status."""
    ledger = Ledger(load().ledgers)
    try:
        ledger.ping()
        living = {"worker" for worker in ledger.workers() if worker.state == "ready"}
    except StorageError:
        return 1
    finally:
        ledger.close()
    return 0 if set(sys.argv[1:]) <= living else 1


if __name__ == "__main__":
    sys.exit(main())
