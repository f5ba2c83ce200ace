"""Memory of this process and its device: how much is taken, and what Linux is asked to do with it.

Where there is nobody to ask, nothing happens.
"""

import ctypes
import mmap
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT = 2**30  # bytes
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_PEAK = "5"  # what resets the peak of this process
_MB = 1e6
_LARGEST = 2**25  # bytes of one tensor: as much as glibc takes from its heaps


def keep_freed() -> bool:
    """What steps free stays for the next ones; what was freed before goes. False where the C library knows neither.

    glibc hands large tensors back to the system when they are freed. To fault them in again, page by page and zeroed,
    costs a step more than to compute with them.
    """
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        return False
    libc.malloc_trim(0)
    return all((libc.mallopt(_MMAP_THRESHOLD, _LARGEST), libc.mallopt(_TRIM_THRESHOLD, _KEPT)))


def give_back(device: Any) -> None:
    """What freed tensors left behind for the next ones."""
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
    elif hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def wait(device: Any) -> None:
    """Until all that was begun there is done."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def in_large_pages(tensor: Any) -> Any:
    """The same torch tensor beside a CPU, not yet written to: in pages of 2 MB if the system has some."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "madvise") and hasattr(mmap, "MADV_HUGEPAGE") and tensor.device.type == "cpu":
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = tensor.data_ptr() + tensor.nbytes - start
        if size > 0:
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)
    return tensor


def peak(device: Any, run: Callable[[], object]) -> int:
    """Bytes that it needed for a while; 0 where nothing can say it."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return max(0, torch.cuda.max_memory_allocated(device) - before)
    try:
        _CLEAR.write_text(_PEAK)
        before = _told("VmRSS")
        run()
        return max(0, _told("VmHWM") - before)
    except OSError:  # not Linux, or nothing that it lets us do
        run()
        return 0


def left(device: Any) -> int | None:
    """Bytes that the device has left, what torch only keeps included; None beside a CPU."""
    if device.type != "cuda":
        return None
    import torch

    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def table(title: str, rows: Sequence[tuple[str, int | None]]) -> str:
    """A line each, in megabytes."""
    known = [(name, size) for name, size in rows if size is not None]
    return "\n".join([title, *(f"  {name:<44}{size / _MB:>12,.1f} MB" for name, size in known)])


def _told(name: str) -> int:
    """Raises OSError where there is no such line."""
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    if found is None:
        raise OSError(name)
    return int(found[1]) * 1024
