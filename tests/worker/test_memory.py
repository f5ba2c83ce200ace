import ctypes
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.settings import REPOSITORY
from worker.engine import memory

_FREED = 5 * 2**22  # bytes
_STEP = """
import ctypes, sys
import torch
from worker.engine import memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd u f uord fordblks keep".split()]

info = ctypes.CDLL(None).mallinfo2
info.restype = Info
assert sys.argv[1] == "as it is" or memory.keep_freed()
before = info().fordblks
torch.empty(int(sys.argv[2]) // 4).fill_(1)
print(info().fordblks - before)
"""


def _kept(how: str) -> int:
    """Bytes that a process of its own still has for the next step when it has freed a tensor."""
    command = [sys.executable, "-c", _STEP, how, str(_FREED)]
    return int(subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc")
def test_what_a_step_frees_is_there_for_the_next_one() -> None:
    assert _kept("as it is") < _FREED // 2 < _kept("kept")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="not Linux")
def test_large_pages_are_asked_for() -> None:
    tensor = memory.in_large_pages(torch.empty(2**22))

    middle = tensor.data_ptr() + tensor.nbytes // 2
    assert "hg" in _flags(middle)


def _flags(address: int) -> list[str]:
    """What the kernel was told of the memory there."""
    is_inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            is_inside = int(found[1], 16) <= address < int(found[2], 16)
        elif is_inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    return []


def test_the_peak_of_a_while_is_what_it_took() -> None:
    taken = memory.peak(torch.device("cpu"), lambda: torch.ones(2**24))

    assert 0.9 * 2**26 < taken < 1.5 * 2**26


def test_a_table_has_a_line_for_all_that_is_known() -> None:
    rows = (("weights", 13_600_000), ("left on the device", None), ("a step", 2_000_000_000))

    assert memory.table("memory of m", rows).split("\n") == [
        "memory of m",
        "  weights                                             13.6 MB",
        "  a step                                           2,000.0 MB",
    ]
