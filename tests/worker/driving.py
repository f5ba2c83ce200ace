"""Batches that are driven by hand."""

import json
import time
from collections import Counter
from itertools import islice
from typing import Any

from common.errors import InvalidRequestError, NoWorkerError
from common.files import Files
from common.identity import Principal
from common.jobs import Job, new_id
from common.ledger.batches import Batch, Batches
from common.ledger.ledger import Ledger
from common.settings import Settings
from tests.api.hand import Hand
from tests.builders import a_job
from worker.chores.batches import Driver

OWNER = Principal().owner
ROWS = 100


class OpenDoor:
    """Lets everything in but what says "no"."""

    is_closed = False

    def admit(self, ask: Any, who: Any, _headers: Any) -> Any:
        if self.is_closed:
            raise NoWorkerError("No worker serves m.")
        if "no" in ask.prompt:
            raise InvalidRequestError("prompt: no.", param="prompt")
        return a_job(owner=who.owner, share=who.share(None))

    def close(self) -> None:
        """Nothing to leave."""


DRIVERS: list[Driver] = []  # of the test that runs


def a_driver(settings: Settings, ledger: Ledger, door: Any = None, holder: str = "one", **more: Any) -> Driver:
    DRIVERS.append(Driver(settings, ledger, holder, door if door is not None else OpenDoor(), **more))
    return DRIVERS[-1]


def begun(
    files: Files,
    batches: Batches,
    rows: int = ROWS,
    prompts: dict[int, str] | None = None,
    more: dict[str, Any] | None = None,
    **metadata: str,
) -> str:
    """A batch whose file has so many rows."""
    with files.draft() as draft:
        for at in range(rows):
            body = {"model": "m", "prompt": (prompts or {}).get(at, "x")} | (more or {})
            line = {"custom_id": str(at), "method": "POST", "url": "/v1/completions", "body": body}
            draft.write(json.dumps(line).encode() + b"\n")
        file = draft.keep(OWNER, "in", "batch")
    now = int(time.time())
    batch = Batch(new_id(), OWNER, file.id, "/v1/completions", "24h", now, now + 3600, metadata=metadata)
    batches.put(batch, 9)
    return batch.id


def told(batches: Batches, batch_id: str) -> Batch:
    batch = batches.get(OWNER, batch_id)
    assert batch is not None
    return batch


def lines(files: Files, batch: Batch) -> Counter[str]:
    """How often each row is told of."""
    found: Counter[str] = Counter()
    for kind in ("output", "error"):
        file = files.get(OWNER, batch.file(kind))
        if file is not None:
            raw = b"".join(files.read(file))
            assert len(raw) == file.size
            found.update(json.loads(line)["custom_id"] for line in raw.splitlines())
    return found


def work(ledger: Ledger, count: int = ROWS) -> None:
    """Answer so many of those that wait."""
    hand = Hand(ledger)
    for _ in range(min(count, ledger.waiting("m")["batch"])):
        hand.end(hand.claim(), "hello")


def until(driver: Driver, batches: Batches, batch_id: str, *states: str) -> Batch:
    for _ in range(50):
        if told(batches, batch_id).state in states:
            break
        driver()
    assert told(batches, batch_id).state in states
    return told(batches, batch_id)


def die_in_mid_step(driver: Driver, ledger: Ledger, batch: Batch) -> None:
    """Twenty rows are submitted, and nobody writes that down."""
    with driver._places(batch) as places:
        for row in driver._rows.read(batch, list(islice(places, 20))):
            if isinstance(row.job, Job):
                ledger.submit(row.job, driver._settings.limits)
