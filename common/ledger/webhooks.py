"""Webhook endpoints in Redis, in their owner's partition, and what they are still to be told.

Ends are put down by the scripts in which they happen; a delivery stays until somebody has marked what became of it.
"""

import base64
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from pydantic import TypeAdapter

from common.errors import InvalidRequestError
from common.jobs import strip_prefix
from common.ledger import keys, wire
from common.ledger.ledger import Ledger
from common.ledger.partition import Partition
from common.ledger.replies import NEVER_AGAIN, Once
from common.reading import reader
from common.webhooks import Ended

PREFIX = "wh_"
Outcome = Literal["delivered", "retried", "dropped"]
_GRACE_S = 24 * 3600
_HINT = 4  # characters of a secret that are shown again


@dataclass(frozen=True)
class Webhook:
    """An endpoint: who is told of what."""

    id: str  # bare
    owner: str
    name: str
    url: str
    events: tuple[str, ...]
    secret: str
    created: float  # Unix seconds
    updated: float
    old_secret: str = ""
    old_until: float = 0

    def secrets(self, now: float) -> tuple[str, ...]:
        """What holds at this time: receivers may know either."""
        return (self.secret, self.old_secret) if now < self.old_until else (self.secret,)

    @property
    def hint(self) -> str:
        """Enough to tell which secret it is."""
        return f"whsec_****{self.secret[-_HINT:]}"

    def changed(self, **fields: Any) -> "Webhook":
        """With these; a change is one that differs."""
        new = replace(self, **fields)
        return self if new == self else replace(new, updated=time.time())

    def rotated(self, *, keep_old: bool) -> "Webhook":
        """With another secret; the old one holds for a day, or no more."""
        old = {"old_secret": self.secret if keep_old else "", "old_until": time.time() + _GRACE_S if keep_old else 0}
        return self.changed(secret=new_secret(), **old)

    def encode(self) -> str:
        """As Redis keeps it."""
        return _WEBHOOK.dump_json(self).decode()

    @classmethod
    def decode(cls, raw: bytes) -> "Webhook":
        """As Redis kept it."""
        return _read(raw)


_WEBHOOK = TypeAdapter(Webhook)
_read = reader(_WEBHOOK)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What an endpoint is to be told now."""

    to: Webhook
    ended: Ended
    tries: int  # that failed
    name: str  # in the ledger


class Webhooks:
    """All of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def put(self, webhook: Webhook, most: int, once: Once = NEVER_AGAIN) -> str:
        """Keep a new one, unless an equal request made one; the id of what stands.

        Raises InvalidRequestError where an owner has too many, and ConflictError.
        """
        told = (webhook.owner, webhook.id, most, "", webhook.encode(), once.key, once.digest)
        stands = wire.standing(self._of(webhook.owner).run("put_webhook", *told))
        if stands is None:
            message = f"You have {most} webhook endpoints here; delete some."
            raise InvalidRequestError(message, code="too_many_webhook_endpoints")
        return stands

    def get(self, owner: str, webhook_id: str) -> Webhook | None:
        """None: not here, or not yours."""
        raw = self._raw(owner, webhook_id)
        return None if raw is None else Webhook.decode(raw)

    def every(self, owner: str) -> list[Webhook]:
        """An owner's, the newest first."""
        part = self._of(owner)
        found: list[bytes] = part.ask(lambda: part.redis.hvals(keys.webhooks(part.tag, owner)))
        return sorted(map(Webhook.decode, found), key=lambda one: (one.created, one.id), reverse=True)

    def change(self, owner: str, webhook_id: str, to: Callable[[Webhook], Webhook]) -> Webhook | None:
        """As it is after that, whoever changes it at the same time; None as for ``get``."""
        while (raw := self._raw(owner, webhook_id)) is not None:
            new = to(Webhook.decode(raw))
            if self._of(owner).run("put_webhook", owner, webhook_id, 0, raw, new.encode(), "", ""):
                return new
        return None

    def drop(self, owner: str, webhook_id: str) -> None:
        """Nothing more is sent there."""
        self._of(owner).run("drop_webhook", owner, webhook_id)

    def due(self, partition: int, most: int) -> list[tuple[str, str]]:
        """Owner and id of endpoints in one partition whose turn it is, whoever waits longest first."""
        found: list[bytes] = self._ledger.partitions[partition].run("due_webhooks", most)
        return [(owner, webhook_id) for owner, _, webhook_id in (one.decode().partition(":") for one in found)]

    def next(self, owner: str, webhook_id: str) -> Delivery | None:
        """The first that is due."""
        found = self._of(owner).run("next_delivery", owner, webhook_id)
        if found is None:
            return None
        raw, name, tries = found
        event, of, at = name.decode().split(" ")
        return Delivery(Webhook.decode(raw), Ended(event, of, int(at)), int(tries), name.decode())

    def mark(self, delivery: Delivery, outcome: Outcome, delay_s: float | None = None) -> bool:
        """What became of a try, and when the next one is; False: it is gone, or another was quicker."""
        to = delivery.to
        told = (delivery.name, delivery.tries, outcome, "" if delay_s is None else delay_s)
        return bool(self._of(to.owner).run("mark_delivery", to.owner, to.id, *told))

    def outcomes(self) -> Counter[str]:
        """What became of all deliveries, counted."""
        counted: Counter[str] = Counter()
        for part in self._ledger.partitions:
            found: dict[bytes, bytes] = part.ask(partial(part.redis.hgetall, keys.deliveries(part.tag)))
            counted.update({name.decode(): int(count) for name, count in found.items()})
        return counted

    def _raw(self, owner: str, webhook_id: str) -> bytes | None:
        part = self._of(owner)
        found: bytes | None = part.ask(lambda: part.redis.hget(keys.webhooks(part.tag, owner), webhook_id))
        return found

    def _of(self, owner: str) -> Partition:
        return self._ledger.partitions[self._ledger.partition(owner)]


def new_secret() -> str:
    """As Standard Webhooks writes one."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"


def bare(public_id: str) -> str | None:
    """The id without its prefix; None for what is none."""
    return strip_prefix(public_id, (PREFIX,))
