"""``penstock worker``: a small parent that keeps one engine process alive and reaps for it at once when it dies.

``penstock chores`` runs the periodic work instead; it has no child.
"""

import argparse
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

from common import telemetry
from common.broker import Tickets
from common.errors import StorageError
from common.ledger.ledger import Ledger
from common.processes import UNUSABLE, die_with_parent
from common.settings import Settings, SettingsError, child_environment, load
from worker.chores import sweep
from worker.hot import HotFile
from worker.watch import reaper

_BACK_OFF_S = (0.2, 10.0)
_HEALTHY_S = 30.0
log = telemetry.logger("supervisor")


class Supervisor:
    """Starts the engine process, again and again, until told to stop."""

    def __init__(self, settings: Settings, model: str) -> None:
        self._settings, self._model = settings, model
        self._stop = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Pass SIGTERM on: the child gives its jobs back and leaves."""
        self._stop.set()
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)

    def run(self) -> int:
        """Until stopped; the exit status."""
        delay, most = _BACK_OFF_S
        while True:
            started = time.monotonic()
            status = self._live()
            if self._stop.is_set():
                return 0
            if status == UNUSABLE:
                return status
            if time.monotonic() - started > _HEALTHY_S:
                delay = _BACK_OFF_S[0]
            log.error("engine process ended; starting another", model=self._model, status=status, delay_s=delay)
            if self._stop.wait(delay):
                return 0
            delay = min(2 * delay, most)

    def _live(self) -> int:
        """One life of the engine process, and what it leaves behind."""
        worker = secrets.token_hex(8)
        with HotFile.make() as file:
            hot = HotFile(file)
            told = {"model": self._model, "worker": worker, "hot": file.fileno(), "parent": os.getpid()}
            self._child = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-m", "worker.boot", *(f"--{name}={value}" for name, value in told.items())],
                pass_fds=[file.fileno()],
                env=child_environment(self._settings),
            )
            if self._stop.is_set():  # asked between two lives
                self._child.send_signal(signal.SIGTERM)
            status = self._child.wait()
            if status != UNUSABLE:
                self._reap(worker, hot)
            hot.close()
            return status

    def _reap(self, worker: str, hot: HotFile) -> None:
        """Give the dead child's jobs back, however long Redis is away: without us nobody is charged."""
        ledger = Ledger(self._settings.ledgers)
        delay, most = _BACK_OFF_S
        while True:
            try:
                jobs = ledger.reap(worker, hot.read())
            except StorageError:
                if self._stop.wait(delay):
                    break
                delay = min(2 * delay, most)
            else:
                if jobs:
                    log.warning("its jobs wait for another worker", jobs=len(jobs))
                break
        ledger.close()


class Chores:
    """The periodic work, beside whatever other process does the same: one holds the lease."""

    def __init__(self, settings: Settings) -> None:
        self._ledger = Ledger(settings.ledgers)
        self._tickets = Tickets(settings)
        self._threads = (reaper(self._ledger, settings.lease_s), sweep.periodic(settings, self._ledger, self._tickets))
        self._stop = threading.Event()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """End soon."""
        self._stop.set()

    def run(self) -> int:
        """Until stopped; the exit status."""
        for thread in self._threads:
            thread.start()
        log.info("chores ready")
        self._stop.wait()
        for thread in self._threads:
            thread.stop()
        self._tickets.close()
        self._ledger.close()
        return 0


def main() -> int:
    """Run until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="penstock worker", description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--chores", action="store_true")
    parser.add_argument("--parent", type=int)
    told = parser.parse_args()
    try:
        settings = load()
    except SettingsError as error:
        sys.stderr.write(f"penstock: {error}\n")
        return UNUSABLE
    telemetry.configure(settings)
    if told.parent:
        die_with_parent(told.parent)
    part: Chores | Supervisor = Chores(settings) if told.chores else Supervisor(settings, _model(settings, told.model))
    signal.signal(signal.SIGTERM, part.stop)
    signal.signal(signal.SIGINT, part.stop)
    return part.run()


def _model(settings: Settings, name: str | None) -> str:
    """The configured model of this name; the first one when none is named."""
    model = settings.model(name) if name else settings.models[0]
    if model is None:
        sys.exit(f"penstock: no model is called {name}; configured are {', '.join(m.name for m in settings.models)}.")
    return model.name


if __name__ == "__main__":
    sys.exit(main())
