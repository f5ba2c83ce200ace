"""Keeps programs alive: starts what ended again, and ends everything in order when asked.

One thread that waits for process ends and signals together; nothing is polled.
"""

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Self

from ops.cli.programs import Program

_BACK_OFF_S = (0.2, 10.0)
_HEALTHY_S = 30.0
_ECHO_S = 0.3  # one Ctrl-C may arrive twice, through a wrapper that passes it on
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130


def say(line: str) -> None:
    """A line for the person who looks; nobody looking must not end the service."""
    try:
        print(line, flush=True)
    except OSError:
        sys.stdout = None  # print then does nothing


@dataclass(slots=True, eq=False)
class _Life:
    program: Program
    descriptor: int | None = None  # of the running process
    started: float = 0.0
    delay: float = _BACK_OFF_S[0]
    due: float | None = None  # when it is started again


class Supervisor:
    """A context: inside it, signals are noted instead of obeyed. Use it in the main thread."""

    def __init__(self, is_hopeless: Callable[[int], bool]) -> None:
        """``is_hopeless`` says which exit statuses end everything."""
        self._is_hopeless = is_hopeless
        self._lives: list[_Life] = []
        self._asked: list[float] = []  # when signals came
        self._status: int | None = None
        self._is_ending = False
        self._selector = selectors.DefaultSelector()
        self._bell, self._ringer = socket.socketpair()
        self._before: list[object] = []

    def __enter__(self) -> Self:
        for end in (self._bell, self._ringer):
            end.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._hear)
        signal.set_wakeup_fd(self._ringer.fileno(), warn_on_full_buffer=False)
        self._before = [signal.signal(number, self._note) for number in _SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in zip(_SIGNALS, self._before, strict=True):
            signal.signal(number, handler)  # type: ignore[arg-type]  # what it gave us
        self._selector.close()
        self._bell.close()
        self._ringer.close()

    def run(self, programs: Iterable[Program]) -> int:
        """Until a signal, or an end that starting again will not help; the exit status."""
        self._lives = [_Life(program) for program in programs]
        for life in self._lives:
            if not self._asked:
                self._start(life)
        while not self._asked and self._status is None:
            self._wait(min((life.due for life in self._lives if life.due is not None), default=None))
            for life in self._lives:
                if life.due is not None and life.due <= time.monotonic():
                    self._start(life)
        self._end()
        if self._status is not None:
            return self._status
        return INTERRUPTED if self._is_hurried() else 0

    def _start(self, life: _Life) -> None:
        life.due = None
        life.started = time.monotonic()
        pid = life.program.start()
        say(f"{life.program.name}: process {pid}")
        try:
            life.descriptor = os.pidfd_open(pid)
        except ProcessLookupError:  # an adopted one that just died
            self._ended(life)
            return
        self._selector.register(life.descriptor, selectors.EVENT_READ, lambda: self._ended(life))

    def _ended(self, life: _Life) -> None:
        if life.descriptor is not None:
            self._selector.unregister(life.descriptor)
            os.close(life.descriptor)
            life.descriptor = None
        status = life.program.bury(is_over=self._is_ending)
        if self._is_ending or self._asked:
            return
        if self._is_hopeless(status):
            self._status = status
            return
        if time.monotonic() - life.started > _HEALTHY_S:
            life.delay = _BACK_OFF_S[0]
        say(f"{life.program.name}: ended with status {status}; starts again in {life.delay:g} s")
        life.due = time.monotonic() + life.delay
        life.delay = min(2 * life.delay, _BACK_OFF_S[1])

    def _end(self) -> None:
        """Low orders first; each has its patience, unless a second signal came."""
        self._is_ending = True
        for order in sorted({life.program.order for life in self._lives}):
            group = [life for life in self._lives if life.program.order == order]
            end = time.monotonic() + max(life.program.patience_s for life in group)
            for life in _running(group):
                life.program.ask_to_end()
            while _running(group) and time.monotonic() < end and not self._is_hurried():
                self._wait(end)
            for life in _running(group):
                say(f"{life.program.name}: killed")
                life.program.kill()
            while _running(group):
                self._wait(None)

    def _wait(self, until: float | None) -> None:
        """For a process end, a signal, or the time."""
        for key, _ in self._selector.select(None if until is None else max(0.0, until - time.monotonic())):
            key.data()

    def _hear(self) -> None:
        self._bell.recv(4096)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._asked.append(time.monotonic())

    def _is_hurried(self) -> bool:
        return bool(self._asked) and self._asked[-1] - self._asked[0] > _ECHO_S


def _running(lives: Iterable[_Life]) -> list[_Life]:
    return [life for life in lives if life.descriptor is not None]
