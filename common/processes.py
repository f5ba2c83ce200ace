"""What processes of ours owe one another."""

import ctypes
import gc
import os
import signal
import threading

UNUSABLE = 2  # exit status: the settings or the model are wrong; starting again will not help
_PR_SET_PDEATHSIG = 1
_NICE = 5  # people's requests come first, and a machine without any is not slower for it


def die_with_parent(parent: int) -> None:
    """Have the kernel send us SIGTERM when process ``parent`` dies, however it dies (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was told
        os.kill(os.getpid(), signal.SIGTERM)


def yield_to_others() -> None:
    """This thread, and what it starts from now on, takes the processor when others leave it (Linux)."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(_NICE, os.getpriority(os.PRIO_PROCESS, thread)))


def settle() -> None:
    """All is loaded: the garbage collector, which stops all threads, looks at what comes from now on only."""
    gc.collect()
    gc.freeze()
