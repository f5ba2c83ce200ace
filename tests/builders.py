"""Things with defaults: a test names only what matters to it."""

from typing import Any

from common.jobs import Job, Reply, Sampling, new_id

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
