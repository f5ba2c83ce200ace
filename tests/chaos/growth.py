"""What the house's processes use over time: memory, threads, descriptors."""

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import psutil

from tests.chaos.house import House

_SAMPLE_S = 5.0
_MIB, _HOUR_S = 2**20, 3600.0


@dataclass(frozen=True)
class Sample:
    """One process at one time."""

    at: float
    own_bytes: int  # that no other process shares
    threads: int
    descriptors: int


class Growth:
    """A thread that looks at all processes of a house now and then; a context."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)  # by service and process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="growth")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> dict[tuple[str, int], Sample]:
        """All of them, now."""
        return {key: told for key, process in self._processes() if (told := _sample(process)) is not None}

    def mb_per_hour(self, last_s: float) -> dict[str, float]:
        """By process, of those that lived all that time: the slope of what is its own."""
        since = time.monotonic() - last_s
        found = {}
        for (name, pid), samples in self._samples.items():
            late = [sample for sample in samples if sample.at >= since]
            if len(late) > 1 and samples[0].at <= since and late[-1].at >= time.monotonic() - 3 * _SAMPLE_S:
                slope = statistics.linear_regression([one.at for one in late], [one.own_bytes for one in late]).slope
                found[f"{name} {pid}"] = round(slope * _HOUR_S / _MIB, 2)
        return found

    def mb_by_minute(self, last_s: float) -> dict[str, list[float]]:
        """The same processes' own memory since they began: a step looks unlike a slope."""
        every = round(60 / _SAMPLE_S)
        names = self.mb_per_hour(last_s)
        return {
            f"{name} {pid}": [round(sample.own_bytes / _MIB, 2) for sample in samples[::every]]
            for (name, pid), samples in self._samples.items()
            if f"{name} {pid}" in names
        }

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            for key, sample in self.look().items():
                self._samples[key].append(sample)

    def _processes(self) -> Iterable[tuple[tuple[str, int], psutil.Process]]:
        for service in self._house.services():
            for process in service.family():
                yield (service.name, process.pid), process
        yield from self._house.redis()


def _sample(process: psutil.Process) -> Sample | None:
    with suppress(psutil.NoSuchProcess):
        memory = process.memory_full_info().uss
        return Sample(time.monotonic(), memory, process.num_threads(), process.num_fds())
    return None
