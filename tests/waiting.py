"""For what nothing announces: look until it is there, or see that it never comes."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 15.0
T = TypeVar("T")


def until(find: Callable[[], T], timeout_s: float = PATIENCE_S) -> T:
    """What is found in the end, where nothing announces it; fails when nothing is."""
    end = time.monotonic() + timeout_s
    while not (found := find()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)
    return found


def never(is_true: Callable[[], bool], for_s: float = 0.4) -> bool:
    """Whether it stays false for a while."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        if is_true():
            return False
        time.sleep(0.005)
    return True
