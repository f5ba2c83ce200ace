"""The pool of admission children: started with a fresh interpreter, ended with their limits, replaced when they die."""

import contextlib
import json
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

from common import telemetry
from common.settings import bare_environment

_START_S = 60.0  # until its libraries are loaded
_END_S = 1.0  # from its closed line to its end
_ANSWER_S = 20.0  # on the clock; its processor time is limited by itself
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
log = telemetry.logger("door")


class ChildDiedError(Exception):
    """It gave no answer: out of time, out of memory, or crashed."""


class ChildKilledError(ChildDiedError):
    """It gave no answer because somebody else ended it; its limits end it in other ways."""


class ChildGoneError(Exception):
    """It was dead before it was asked."""


class Child:
    """One process, and the line to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-m", "common.door.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=bare_environment() | _ENVIRONMENT,
                stdin=subprocess.DEVNULL,
            )
        self._connection = ours
        self._lines: BinaryIO = ours.makefile("rwb")  # type: ignore[assignment]  # typeshed knows it by another name
        self._is_ready = False

    def ask(self, question: bytes) -> Any:
        """Its answer. Raises ChildGoneError, ChildDiedError; then it is of no use any more."""
        try:
            self._send(question)
            return json.loads(self._line(_ANSWER_S))
        except (OSError, EOFError) as error:
            was_killed = self._was_killed(error)
            self.close()
            raise (ChildKilledError if was_killed else ChildDiedError) from error
        except BaseException:  # we are to stop waiting: nobody else may get this answer
            self.close()
            raise

    def _send(self, question: bytes) -> None:
        try:
            if not self._is_ready:
                self._is_ready = bool(self._line(_START_S))
            self._lines.write(question)
            self._lines.flush()
        except (OSError, EOFError, ValueError) as error:  # a line that we closed is a ValueError
            self.close()
            raise ChildGoneError from error

    def _was_killed(self, error: Exception) -> bool:
        if isinstance(error, TimeoutError):  # it lives
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_END_S) in {-signal.SIGKILL, -signal.SIGTERM}
        return False

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):  # what was not sent is of no use to a dead child
            self._lines.close()
        self._connection.close()

    def _line(self, patience_s: float) -> bytes:
        self._connection.settimeout(patience_s)
        line = self._lines.readline()
        if not line:
            raise EOFError
        return line


class Children:
    """A few of them; who asks waits for a free one."""

    def __init__(self, count: int) -> None:
        """They load while nobody asks yet."""
        self._free: queue.LifoQueue[Child] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(Child())

    def ask(self, question: Mapping[str, Any]) -> Any:
        """An answer. Raises ChildDiedError: the question was too much for one. And ChildGoneError: none can be had."""
        line = json.dumps(question).encode() + b"\n"
        child = self._free.get()
        try:
            try:
                return child.ask(line)
            except (ChildGoneError, ChildKilledError):  # not the question's doing, as far as we can tell
                child = Child()
                return child.ask(line)
        except ChildDiedError:
            log.warning("an admission child ended over a request", bytes=len(line))
            child = Child()
            raise
        finally:
            self._free.put(child)

    def close(self) -> None:
        """End all that are free."""
        while not self._free.empty():
            self._free.get_nowait().close()
