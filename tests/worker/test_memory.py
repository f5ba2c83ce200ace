import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.settings import REPOSITORY
from worker.engine import memory

_STEPS = """
import resource, sys
import torch
from worker.engine import memory

def step():
    return torch.empty(2**20).fill_(1), torch.empty(2**18).fill_(1)

assert sys.argv[1] == "as it is" or memory.keep_freed()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    """Pages that twenty steps of five megabytes had to fault in again, in a process of their own."""
    done = subprocess.run([sys.executable, "-c", _STEPS, how], cwd=REPOSITORY, capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not memory.keep_freed(), reason="the C library is not glibc")
def test_what_a_step_frees_is_there_for_the_next_one() -> None:
    assert _faults("kept") < 100 < _faults("as it is")


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
