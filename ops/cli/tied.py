"""``python -m ops.cli.tied PARENT MODULE ARGUMENT…``: become that module, and end when PARENT ends, however it ends.

The kernel's promise (``die_with_parent``) outlives exec, so the modules themselves need not know of it.
"""

import os
import sys

from common.processes import die_with_parent


def main() -> None:
    """Does not return."""
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])  # noqa: S606  our own modules


if __name__ == "__main__":
    main()
