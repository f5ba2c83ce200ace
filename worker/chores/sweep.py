"""Periodic work: what is past its deadline, who fell silent, which tickets are missing, which files have expired.

Every chores worker runs this thread; a lease in Redis says which of them works.
"""

import secrets
import time

from common import telemetry
from common.broker import Tickets
from common.errors import StorageError
from common.files import Files
from common.ledger.ledger import Ledger
from common.settings import Settings
from worker.watch import Lapses, Periodic

_INTERVAL_S = 0.5
_LEASE_S = 10.0
_FILES_S = 600.0
_SHORT_S = 1.0
_FRONT_END_S = 30.0  # a front end that is silent for so long is gone
log = telemetry.logger("sweep")


class Sweep:
    """One holder of the lease, and what it has read so far."""

    def __init__(
        self, settings: Settings, ledger: Ledger, tickets: Tickets, *, front_end_s: float = _FRONT_END_S
    ) -> None:
        self._models = tuple(model.name for model in settings.models)
        self._ledger, self._tickets = ledger, tickets
        self._holder = secrets.token_hex(8)
        self._silent = [Lapses(front_end_s) for _ in ledger.partitions]
        self._short: dict[str, float] = {}  # models with fewer tickets than waiting jobs -> since when

    def __call__(self) -> None:
        """One round, if the lease is ours."""
        if not self._ledger.lease("sweep", self._holder, _LEASE_S):
            return
        for part in self._ledger.partitions:
            try:
                self._tidy(part.number)
            except StorageError:
                log.warning("a partition does not answer", partition=part.number)
        for model in self._models:
            self._reconcile(model)

    def _tidy(self, partition: int) -> None:
        self._ledger.sweep(partition=partition)
        for beat in self._silent[partition].judged(lambda: self._ledger.front_end_beats(partition)):
            self._ledger.clear_front_end(beat)
            log.warning("front end forgotten: its beat stopped", front_end=beat.who)

    def _reconcile(self, model: str) -> None:
        """Send the tickets that have been missing for a second; beats and workers may need none."""
        waiting = sum(self._ledger.waiting(model).values())
        if not self._tickets.missing(model, waiting):
            self._short.pop(model, None)
            return
        now = time.monotonic()
        if now - self._short.setdefault(model, now) >= _SHORT_S:
            log.info("missing tickets sent", model=model, tickets=self._tickets.reconcile(model, waiting))
            del self._short[model]


def periodic(settings: Settings, ledger: Ledger, tickets: Tickets) -> tuple[Periodic, ...]:
    """The threads."""
    files, holder = Files(settings, ledger.partitions[0]), secrets.token_hex(8)

    def sweep_files() -> None:
        if ledger.lease("files", holder, 2 * _FILES_S):
            files.sweep()

    sweeping = Periodic("sweep", _INTERVAL_S, Sweep(settings, ledger, tickets))
    return sweeping, Periodic("files", _FILES_S, sweep_files)
