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
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType

from common import telemetry
from common.broker import Tickets
from common.door.fetch import Fetcher
from common.errors import StorageError
from common.ledger.ledger import Ledger
from common.processes import UNUSABLE, yield_to_others
from common.settings import Settings, SettingsError, child_environment, load
from worker.chores import sweep, webhooks
from worker.chores.batches import Driver
from worker.hot import HotFile
from worker.watch import Periodic, reapers

_BACK_OFF_S = (0.2, 10.0)
_HEALTHY_S = 30.0
_REAP_S = 0.5
_BATCHES_S = 0.2
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # weights are read faster from pages of 2 MB
log = telemetry.logger("supervisor")


class Supervisor:
    """Starts the engine process, again and again, until told to stop."""

    def __init__(self, settings: Settings, model: str) -> None:
        self._settings, self._model = settings, model
        self._is_stopping = False
        self._stopped: SimpleQueue[None] = SimpleQueue()  # a handler may use it, whatever it interrupted
        self._child: subprocess.Popen[bytes] | None = None

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Pass SIGTERM on: the child gives its jobs back and leaves."""
        self._is_stopping = True
        self._stopped.put(None)
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)

    def run(self) -> int:
        """Until stopped; the exit status."""
        delay, most = _BACK_OFF_S
        while True:
            started = time.monotonic()
            status = self._live()
            if self._is_stopping:
                return 0
            if status == UNUSABLE:
                return status
            if time.monotonic() - started > _HEALTHY_S:
                delay = _BACK_OFF_S[0]
            log.error("engine process ended; starting another", model=self._model, status=status, delay_s=delay)
            if not self._pause(delay):
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
                env=_LARGE_PAGES | child_environment(self._settings),
            )
            if self._is_stopping:  # asked between two lives, or while this one began
                self._child.send_signal(signal.SIGTERM)
            status = self._child.wait()
            if status != UNUSABLE:
                self._reap(worker, hot.read())
            hot.close()
            return status

    def _reap(self, worker: str, hot: frozenset[str]) -> None:
        """Give the dead child's jobs back; where Redis is away, later, beside the next life."""
        ledger = Ledger(self._settings.ledgers)
        if not _is_reaped(ledger, worker, hot):
            threading.Thread(target=_reap_later, args=(ledger, worker, hot), name="reap later", daemon=True).start()

    def _pause(self, delay_s: float) -> bool:
        """Before another try; False: there will be none."""
        with suppress(Empty):
            self._stopped.get(timeout=delay_s)
        return not self._is_stopping


def _is_reaped(ledger: Ledger, worker: str, hot: frozenset[str]) -> bool:
    """Whether every partition knows now that this worker is dead."""
    try:
        jobs = ledger.reap(worker, hot)
    except StorageError:
        return False
    ledger.close()
    if jobs:
        log.warning("its jobs wait for another worker", jobs=len(jobs))
    return True


def _reap_later(ledger: Ledger, worker: str, hot: frozenset[str]) -> None:
    """However long Redis is away, and before the lease lapses when it is back: without us nobody is charged."""
    while not _is_reaped(ledger, worker, hot):
        threading.Event().wait(_REAP_S)


class Chores:
    """The periodic work, beside whatever other process does the same: one holds the lease."""

    def __init__(self, settings: Settings) -> None:
        self._ledger = Ledger(settings.ledgers)
        self._tickets = Tickets(settings)
        sweeping = sweep.periodic(settings, self._ledger, self._tickets)
        self._batches = Driver(settings, self._ledger, secrets.token_hex(8))
        driving = Periodic("batches", _BATCHES_S, self._drive)
        self._sender = webhooks.Sender(self._ledger, Fetcher.of(settings))
        sending = webhooks.periodic(self._sender)
        self._threads = (*reapers(self._ledger, settings.lease_s), *sweeping, driving, *sending)
        self._stopped: SimpleQueue[None] = SimpleQueue()

    def _drive(self) -> bool:
        yield_to_others()
        return self._batches()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """End soon."""
        self._stopped.put(None)

    def run(self) -> int:
        """Until stopped; the exit status."""
        for thread in self._threads:
            thread.start()
        log.info("chores ready")
        self._stopped.get()
        self._sender.close()
        for thread in self._threads:
            thread.stop()
        self._batches.close()
        self._tickets.close()
        self._ledger.close()
        return 0


def main() -> int:
    """Run until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="penstock worker", description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--chores", action="store_true")
    told = parser.parse_args()
    try:
        settings = load()
    except SettingsError as error:
        sys.stderr.write(f"penstock: {error}\n")
        return UNUSABLE
    telemetry.configure(settings)
    model = settings.model(told.model) if told.model else settings.models[0]
    if model is None:
        known = ", ".join(model.name for model in settings.models)
        sys.stderr.write(f"penstock: no model is called {told.model}; configured are {known}.\n")
        return UNUSABLE
    part: Chores | Supervisor = Chores(settings) if told.chores else Supervisor(settings, model.name)
    signal.signal(signal.SIGTERM, part.stop)
    signal.signal(signal.SIGINT, part.stop)
    return part.run()


if __name__ == "__main__":
    sys.exit(main())
