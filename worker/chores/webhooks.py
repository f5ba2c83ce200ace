"""Deliveries of webhooks: what has ended is told to those who asked, until they say that they have heard.

A few threads, here and in every other chores worker; a lease says which of them tells an endpoint, so a slow one holds
up one thread and none of the others. At least once: whoever dies between the telling and the marking leaves a delivery
that is told again, under the same id.
"""

import random
import secrets
import threading
import time

from common import telemetry
from common.door.fetch import Fetcher
from common.errors import FetchError, StorageError, UnavailableError
from common.ledger.ledger import Ledger
from common.ledger.webhooks import Delivery, Webhooks
from common.webhooks import signed
from worker.watch import Periodic

BACK_OFF_S = (5, 30, 120, 600, 3600, 6 * 3600, 12 * 3600, 24 * 3600, 24 * 3600)  # nearly three days
JITTER = 0.2  # so much more at most, lest all come at once to one who is back
THREADS = 8
_INTERVAL_S = 1.0
_LEASE_S = 30.0  # longer than one delivery takes
_SLICE_S = 1.0  # of one endpoint, before the next one's turn
_MOST = 100  # endpoints looked at in one round
_GONE = 410
log = telemetry.logger("webhooks")


class Sender:
    """Goes from endpoint to endpoint; its threads share nothing but this."""

    def __init__(self, ledger: Ledger, fetcher: Fetcher) -> None:
        self._ledger, self._fetcher = ledger, fetcher
        self._webhooks = Webhooks(ledger)
        self._closed = threading.Event()

    def __call__(self) -> None:
        """One round over all whose turn it is and whom nobody else tells."""
        for part in self._ledger.partitions:
            try:
                for owner, webhook_id in self._webhooks.due(part.number, _MOST):
                    self._serve(owner, webhook_id)
            except StorageError:
                log.warning("a partition does not answer", partition=part.number)

    def close(self) -> None:
        """Begin nothing more."""
        self._closed.set()

    def _serve(self, owner: str, webhook_id: str) -> None:
        """What is due there, for a while."""
        lease, holder = f"webhook:{webhook_id}", secrets.token_hex(8)
        until, has_more = time.monotonic() + _SLICE_S, True
        while has_more and not self._closed.is_set() and self._ledger.lease(lease, holder, _LEASE_S):
            delivery = self._webhooks.next(owner, webhook_id)
            has_more = delivery is not None and self._is_heard(delivery) and time.monotonic() < until
        self._ledger.lease(lease, holder, 0)

    def _is_heard(self, delivery: Delivery) -> bool:
        """Send it, and mark what became of it."""
        ended, to, now = delivery.ended, delivery.to, time.time()
        try:
            status = self._fetcher.post(to.url, ended.body(), signed(ended, to.secrets(now), now))
        except UnavailableError:  # nothing could be tried from here
            return False
        except FetchError:
            status = None  # the door has logged why
        told = {"webhook": to.id, "delivery": ended.id, "status": status, "tries": delivery.tries + 1}
        if status is not None and status // 100 == 2:  # noqa: PLR2004  what HTTP calls success
            self._webhooks.mark(delivery, "delivered")
            log.debug("delivered", **told)
            return True
        if status == _GONE or delivery.tries >= len(BACK_OFF_S):
            self._webhooks.mark(delivery, "dropped")
            log.warning("delivery given up", **told)
        else:
            delay_s = BACK_OFF_S[delivery.tries] * random.uniform(1, 1 + JITTER)  # noqa: S311  no secret
            self._webhooks.mark(delivery, "retried", delay_s)
            log.info("delivery failed; it is tried again", **told, delay_s=round(delay_s))
        return False


def periodic(sender: Sender) -> tuple[Periodic, ...]:
    """The threads."""
    return tuple(Periodic("webhooks", _INTERVAL_S, sender) for _ in range(THREADS))
