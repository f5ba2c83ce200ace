"""Something to supervise: ``python -m tests.ops.tenant NAME BEHAVIOUR``; says when it is up and when it ends."""

import os
import signal
import sys

from common.processes import UNUSABLE


def main() -> int:
    name, behaviour = sys.argv[1:]
    if behaviour == "unusable":
        return UNUSABLE
    if behaviour == "parent" and os.fork() == 0:
        name = f"child of {name}"
    told = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, told)
    os.write(1, f"{name} is up {os.getpid()}\n".encode())
    signal.sigwait({signal.SIGUSR1} if behaviour == "stubborn" else told)
    os.write(1, f"{name} ends\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
