"""Things with defaults: a test names only what matters to it."""

from typing import Any

from common.jobs import Job, Reply, Sampling, new_id
from common.ledger.webhooks import Webhook, new_secret
from common.webhooks import EVENTS

OWNER = "0" * 32


def a_job(**changes: Any) -> Job:
    """A chat job of three prompt tokens."""
    fields: dict[str, Any] = {
        "id": new_id(),
        "model": "m",
        "prompts": ((1, 2, 3),),
        "sampling": Sampling(10),
        "reply": Reply("chat"),
        "owner": OWNER,
        "share": OWNER,
        "seed": 1,
        "created": 1_700_000_000,
    }
    return Job(**fields | changes)


def a_webhook(**changes: Any) -> Webhook:
    """An endpoint that wants to hear everything."""
    fields: dict[str, Any] = {
        "id": new_id(),
        "owner": OWNER,
        "name": "ends",
        "url": "https://good.example/hook",
        "events": EVENTS,
        "secret": new_secret(),
        "created": 1_700_000_000.5,
        "updated": 1_700_000_000.5,
    }
    return Webhook(**fields | changes)
