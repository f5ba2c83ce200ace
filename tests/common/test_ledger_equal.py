"""Equal requests are one job, and it ends with the last of them."""

from typing import Any

import pytest
import redis

from common.jobs import Job
from common.ledger.ledger import Ledger
from common.ledger.replies import KnownJobError, Once
from tests.builders import OWNER, a_job
from tests.common.ledger_audit import LIMITS, Hand, audit

ONCE = Once("a" * 32, "b" * 64)


def _asked_again(ledger: Ledger, front_end: str) -> tuple[Job, str]:
    """What the request would have been, and what it became."""
    job = a_job()
    with pytest.raises(KnownJobError) as known:
        ledger.submit(job, LIMITS, front_end, ONCE)
    return job, known.value.job_id


def _state(ledger: Ledger, job: Job) -> str:
    watched = ledger.read(OWNER, job.id)
    assert watched is not None
    return watched.state


@pytest.mark.parametrize("other", ["f1", "f2"])
@pytest.mark.parametrize("runs", [False, True])
def test_a_hang_up_cancels_nothing_once_the_same_was_asked_again(
    ledger: Ledger, hand: Hand, redis_url: str, other: str, *, runs: bool
) -> None:
    job = a_job()
    ledger.submit(job, LIMITS, "f1", ONCE)
    if runs:
        hand.claim()

    second, known = _asked_again(ledger, other)
    ledger.leave(job, "f1", job.id)

    assert known == job.id
    assert _state(ledger, job) == ("running" if runs else "queued")
    assert ledger.beat(hand.info(), {}).cancelled == ()
    audit(redis_url)
    ledger.unwatch(job.id, "f1" if other == "f2" else "")
    ledger.leave(job, other, second.id)
    assert _state(ledger, job) == ("running" if runs else "cancelled")
    assert ledger.beat(hand.info(), {}).cancelled == ((job.id,) if runs else ())


@pytest.mark.parametrize("other", ["f1", "f2"])
@pytest.mark.parametrize("runs", [False, True])
def test_the_last_to_leave_decides_whoever_came_first(
    ledger: Ledger, hand: Hand, redis_url: str, other: str, *, runs: bool
) -> None:
    job = a_job()
    ledger.submit(job, LIMITS, "f1", ONCE)
    if runs:
        hand.claim()
    second, _ = _asked_again(ledger, other)

    ledger.leave(job, other, second.id, is_read=other == "f1")
    ledger.unwatch(job.id, other if other == "f2" else "")
    between = _state(ledger, job), ledger.beat(hand.info(), {}).cancelled
    ledger.leave(job, "f1", job.id)

    assert between == ("running" if runs else "queued", ())
    assert _state(ledger, job) == ("running" if runs else "cancelled")
    assert ledger.beat(hand.info(), {}).cancelled == ((job.id,) if runs else ())
    audit(redis_url)


def test_after_one_has_left_another_that_comes_is_kept_from_the_first_ones_hang_up(ledger: Ledger) -> None:
    job = a_job()
    ledger.submit(job, LIMITS, "f1", ONCE)
    second, _ = _asked_again(ledger, "f1")
    ledger.leave(job, "f1", second.id, is_read=True)

    third, _ = _asked_again(ledger, "f1")
    ledger.leave(job, "f1", job.id)
    before = _state(ledger, job)
    ledger.leave(job, "f1", third.id)

    assert (before, _state(ledger, job)) == ("queued", "cancelled")


def test_a_follower_that_leaves_says_nothing_of_who_asked(ledger: Ledger) -> None:
    job = a_job()
    ledger.submit(job, LIMITS, "f1", ONCE)
    _asked_again(ledger, "f1")

    ledger.leave(job, "f1", is_read=True)
    ledger.leave(job, "f1", job.id)

    assert _state(ledger, job) == "queued"


def test_who_asks_again_is_rung_at_once(ledger: Ledger, redis_url: str) -> None:
    job = a_job()
    ledger.submit(job, LIMITS, "f1", ONCE)

    _asked_again(ledger, "f2")

    client: Any = redis.Redis.from_url(redis_url, decode_responses=True)
    with client:
        assert client.hget(f"{{q00}}:j:{job.id}", "fe") == "f1,f2"


def test_a_job_that_is_about_to_be_cancelled_is_nobodys_answer(ledger: Ledger, hand: Hand) -> None:
    job, again = a_job(), a_job()
    ledger.submit(job, LIMITS, "f1", ONCE)
    hand.claim()
    ledger.leave(job, "f1", job.id)

    ledger.submit(again, LIMITS, "f1", ONCE)

    assert _asked_again(ledger, "f2")[1] == again.id
