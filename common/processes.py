"""What processes of ours owe one another."""

import ctypes
import os
import signal

UNUSABLE = 2  # exit status: the settings or the model are wrong; starting again will not help
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel send us SIGTERM when process ``parent`` dies, however it dies (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was told
        os.kill(os.getpid(), signal.SIGTERM)
