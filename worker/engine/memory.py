"""What a worker asks of Linux about its memory; where there is no such thing to ask, nothing happens."""

import ctypes
import mmap
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT = 2**30  # bytes
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


def in_large_pages(tensor: Any) -> Any:
    """The same torch tensor beside a CPU, not yet written to: in pages of 2 MB if the system has some."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "madvise") and hasattr(mmap, "MADV_HUGEPAGE") and tensor.device.type == "cpu":
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = tensor.data_ptr() + tensor.nbytes - start
        if size > 0:
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)
    return tensor
