"""What a supervisor keeps alive: modules of ours, and the embedded server."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from ops.embedded import Embedded


class Program(Protocol):
    """Something with a process."""

    @property
    def name(self) -> str:
        """As a person calls it."""

    @property
    def order(self) -> int:
        """When everything ends: low numbers first, equal ones together."""

    @property
    def patience_s(self) -> float:
        """How long its end may take."""

    def start(self) -> int:
        """Begin; the process id."""

    def ask_to_end(self) -> None:
        """Politely."""

    def kill(self) -> None:
        """At once, with all that it started."""

    def bury(self, *, is_over: bool) -> int:
        """After the process ended: its exit status. ``is_over``: nothing of it may stay; else its kin ends politely."""


@dataclass(slots=True)
class Module:
    """``python -m MODULE ARGUMENT…`` in a process group of its own, so that Ctrl-C reaches only the supervisor."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    order: int = 0
    patience_s: float = 10.0
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Begin; the process id."""
        self._process = subprocess.Popen(  # noqa: S603  our own modules
            [sys.executable, "-m", "ops.cli.tied", str(os.getpid()), *self.command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        return self._process.pid

    def ask_to_end(self) -> None:
        """SIGTERM to the process, which tells its own children."""
        self._signal_group(signal.SIGTERM, is_alone=True)

    def kill(self) -> None:
        """SIGKILL to the group."""
        self._signal_group(signal.SIGKILL)

    def bury(self, *, is_over: bool) -> int:
        """Its group is told before it is waited for: until then nobody else can have its number."""
        if self._process is None:
            return 0
        self._signal_group(signal.SIGKILL if is_over else signal.SIGTERM)
        status = self._process.wait()
        self._process = None
        return status

    def _signal_group(self, number: signal.Signals, *, is_alone: bool = False) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                (os.kill if is_alone else os.killpg)(self._process.pid, number)


@dataclass(slots=True)
class EmbeddedServer:
    """The server: running when we begin, started again when it dies, ended last."""

    embedded: Embedded
    pid: int | None
    name: str = "embedded server"
    order: int = 9
    patience_s: float = 20.0

    def start(self) -> int:
        """The running one the first time; later the same address again, without waiting for it."""
        pid, self.pid = self.pid, None
        return pid or self.embedded.spawn()

    def ask_to_end(self) -> None:
        """Write everything down and end."""
        self.embedded.stop()

    def kill(self) -> None:
        """It ends as fast as it can write."""
        self.embedded.stop()

    def bury(self, *, is_over: bool) -> int:  # noqa: ARG002  it has no kin
        """Of an adopted one nobody learns the status."""
        return 0
