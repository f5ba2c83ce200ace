"""Whose turn it is: users who all want more than there is, and the tokens that each of them got.

Real ledger, real workers with the counting model (``penstock up``); the jobs are written into the ledger, because what
is asked is who is served, not how a request is read.
"""

import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.identity import Principal
from common.jobs import CLASSES, Class, Job, Reply, Sampling, new_id
from common.ledger.ledger import Ledger
from common.settings import Limits
from ops.bench.stack import Stack
from worker.models import counting

_MODEL, _END = "counting", 10_000_000
_TOML = f"""
[[models]]
name = "{_MODEL}"
path = "counting:?step_ms=4&answer={_END}"
slots = 8
"""
_TOKENIZER = counting.tokenizer()
_LOOK_S = 0.02
_STOPS = 0.3  # of all jobs


@dataclass(frozen=True)
class User:
    """One who wants so many answers, of up to so many tokens each."""

    name: str
    jobs: int
    tokens: int
    weight: float = 1.0
    cls: Class = "interactive"


def measure() -> dict[str, float]:
    """Flat figures: two users of whom one offers a hundred times as much, ten users, two weights, three classes."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), _TOML)
        try:
            stack.wait_ready()
            ledger = stack.ledger()
            hog, light = _served(ledger, [User("hog", 40_000, 60), User("light", 400, 90)])
            ten = _served(ledger, [User(f"user {at}", 150 * (1 + at % 3), 30 + 15 * at) for at in range(10)])
            double, single = _served(ledger, [User("double", 1200, 60, 2.0), User("single", 1200, 60)])
            classes = _served(ledger, [User(cls, 1200, 60, cls=cls) for cls in CLASSES])
            ledger.close()
        finally:
            stack.stop()
    return {
        "order_100_to_1_percent": round(100 * light / (hog + light), 1),
        "order_100_to_1_tokens": hog + light,
        "order_jain_10": round(sum(ten) ** 2 / (len(ten) * sum(one**2 for one in ten)), 3),
        "order_weight_2_ratio": round(double / single, 2),
        "order_flex_percent": round(100 * classes[1] / sum(classes), 1),
        "order_batch_percent": round(100 * classes[2] / sum(classes), 1),
    }


def _served(ledger: Ledger, users: Sequence[User]) -> list[int]:
    """The tokens that each got until the first of them wanted nothing more; then nobody gets any."""
    chance = random.Random(len(users))
    jobs = [[_job(chance, user) for _ in range(user.jobs)] for user in users]
    limits = Limits(waiting_class=10**6, waiting_share=10**6)
    for mine in jobs:
        for job in mine:
            ledger.submit(job, limits)
    before = [_tokens(ledger, mine) for mine in jobs]  # not all of them came at once
    while all(_waits(ledger, mine[-1]) for mine in jobs):
        time.sleep(_LOOK_S)  # nothing tells when a job leaves the queue
    told = [_tokens(ledger, mine) - had for mine, had in zip(jobs, before, strict=True)]
    for mine in jobs:
        for job in mine:
            ledger.cancel(job.owner, job.id)
    return told


def _job(chance: random.Random, user: User) -> Job:
    """Some say at once all that they may, others stop long before: what is charged at first is put right later."""
    who = Principal(user=user.name, weight=user.weight)
    tokens = chance.randint(user.tokens // 2, user.tokens)
    stops = chance.random() < _STOPS
    first = _END - tokens // 10 if stops else chance.randrange(1000)
    ids = _TOKENIZER.encode(f"count on: {first} ").ids
    return Job(
        id=new_id(),
        model=_MODEL,
        prompts=(tuple(ids),),
        sampling=Sampling(4 * tokens if stops else tokens, temperature=0.0),
        reply=Reply("completion"),
        owner=who.owner,
        share=who.share(None),
        seed=1,
        created=int(time.time()),
        weight=who.weight,
        cls=user.cls,
        on_disconnect="finish",
    )


def _waits(ledger: Ledger, job: Job) -> bool:
    record = ledger.record(job.owner, job.id)
    return record is not None and record.state == "queued"


def _tokens(ledger: Ledger, jobs: Sequence[Job]) -> int:
    """Read and said, of all that were begun; a user's jobs are begun in their order."""
    total = 0
    for job in jobs:
        record = ledger.record(job.owner, job.id)
        if record is None or record.state == "queued":
            break
        total += record.tokens + job.prompt_tokens
    return total
