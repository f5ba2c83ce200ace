import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from common.jobs import Delta
from common.ledger.ledger import Ledger
from common.ledger.wire import CANCELLED, EXPIRED
from tests.common.ledger_audit import alter, audit
from tests.waiting import until
from tests.worker.house import LIMITS, Own, events, is_whole, replica, state, submitted, text
from worker.engine.engine import Engine, Output


class Slow(Engine):
    """Takes a while to drop a job."""

    def __init__(self, *args: Any, **told: Any) -> None:
        super().__init__(*args, **told)
        self.is_dropping, self.has_dropped = threading.Event(), threading.Event()

    def drop(self, job_ids: Collection[str]) -> None:
        self.is_dropping.set()
        self.wait_idle(0.2)
        super().drop(job_ids)
        self.has_dropped.set()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """Redis itself, behind the ledger's back; at the end its keys must agree."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client
    audit(redis_url)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    own = Own(tmp_path)
    yield own
    own.close()


def test_a_job_that_redis_forgot_is_dropped(ledger: Ledger, raw: Any) -> None:
    lost, kept = submitted(ledger), submitted(ledger)
    with replica(ledger, answer=5) as worker:
        worker.claim()
        worker.claim()
        worker.say()
        raw.delete(f"{{q00}}:j:{lost.id}", f"{{q00}}:t:{lost.id}")
        raw.hdel("{q00}:h:w1", lost.id)
        raw.zrem("{q00}:dl", lost.id)
        raw.zrem("{q00}:un", lost.id)

        worker.say()
        until(lambda: worker.publisher.held() == (kept.id,))

        assert worker.engine.room().free == 3
        worker.finish()
    assert is_whole(ledger, kept, 5)


def test_a_job_that_another_worker_has_is_dropped(ledger: Ledger) -> None:
    job = submitted(ledger)
    with replica(ledger, "frozen", answer=12) as frozen, replica(ledger, "heir", answer=12) as heir:
        frozen.claim()
        frozen.say(4)
        ledger.reap("frozen")
        heir.claim()

        frozen.say()
        until(lambda: frozen.is_idle)

        heir.finish()
    assert is_whole(ledger, job, 12)


def test_a_job_that_comes_back_to_the_same_worker_is_not_dropped_with_its_old_claim(ledger: Ledger) -> None:
    job = submitted(ledger)
    with replica(ledger, answer=12, flush_s=3600) as worker:
        worker.claim()
        worker.say(4)
        worker.step(3)  # unsent, and refused from now on
        ledger.reap("w1")

        again = worker.claim()
        worker.finish()

    assert again.epoch == 3
    assert is_whole(ledger, job, 12)


def test_a_job_that_comes_back_while_its_old_claim_is_dropped_stays(ledger: Ledger) -> None:
    job = submitted(ledger)
    with replica(ledger, answer=12, engine=Slow) as worker:
        worker.claim()
        worker.say(4)
        ledger.reap("w1")
        worker.step()
        assert isinstance(worker.engine, Slow)
        assert worker.engine.is_dropping.wait(10)

        worker.claim()
        assert worker.engine.has_dropped.wait(10)
        worker.finish()

    assert is_whole(ledger, job, 12)


def test_a_claim_that_redis_forgot_and_made_again_is_healed_from_memory(ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    with replica(ledger, answer=12) as worker:
        worker.claim()
        for _ in range(8):
            worker.say()
        before = events(ledger, job)
        raw.delete(f"{{q00}}:t:{job.id}", f"{{q00}}:j:{job.id}", "{q00}:h:w1", "{q00}:cr:w1")
        ledger.submit(job, LIMITS)  # as it was before the claim

        again = worker.claim()
        worker.finish()

    assert again.epoch == 1
    assert events(ledger, job)[:8] == before
    assert is_whole(ledger, job, 12)


def test_a_cancelled_job_ends_with_the_next_reply(ledger: Ledger) -> None:
    job, other = submitted(ledger), submitted(ledger)
    with replica(ledger, answer=12) as worker:
        worker.claim()
        worker.claim()
        worker.say(4)
        ledger.cancel(job.owner, job.id)

        worker.say()
        until(lambda: worker.engine.room().free == 3)
        worker.finish()

    assert (state(ledger, job), events(ledger, job)[-1]) == ("cancelled", CANCELLED)
    assert is_whole(ledger, other, 12)


def test_a_job_past_its_time_ends_with_the_next_reply(ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    with replica(ledger) as worker:
        worker.claim()
        worker.say(4)
        alter(raw, job.id, end_at="1.000")

        worker.say()
        until(lambda: worker.engine.room().free == 4)
        worker.finish()

    assert (state(ledger, job), events(ledger, job)[-1]) == ("expired", EXPIRED)


def test_what_was_computed_for_an_old_claim_is_not_said(ledger: Ledger) -> None:
    job = submitted(ledger)
    with replica(ledger, answer=12) as worker:
        old = worker.claim()
        worker.say(4)
        ledger.reap("w1")
        worker.claim()

        worker.publisher([Output(job.id, old.epoch, (Delta("x", (1,)),))])
        worker.finish()

    assert is_whole(ledger, job, 12)


def test_a_job_is_given_back_behind_its_last_words(ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    with replica(ledger, "leaver", answer=12) as leaver, replica(ledger, "heir", answer=12) as heir:
        leaver.claim()
        leaver.say(4)
        raw.client_pause(60_000, all=False)
        leaver.step()
        until(lambda: leaver.publisher._is_sending and not leaver.publisher._ready)
        leaver.step(4)  # while the last call is still under way

        leaver.publisher.release(leaver.engine.release())
        raw.client_unpause()
        assert leaver.publisher.flush(10)

        assert (text(ledger, job), leaver.is_idle) == ("1 2 3 4 5", True)
        assert heir.claim().attempts == 0
        heir.finish()
    assert is_whole(ledger, job, 12)


def test_a_job_that_is_given_back_and_taken_again_stays(ledger: Ledger) -> None:
    job = submitted(ledger)
    with replica(ledger, answer=12) as worker:
        worker.claim()
        worker.say(4)
        released = worker.engine.release()
        ledger.release("w1", released)  # the first reply was lost, say
        worker.claim()

        worker.publisher.release(released)
        worker.finish()

    assert is_whole(ledger, job, 12)


def test_a_release_outlasts_an_outage(own: Own) -> None:
    job = submitted(own.ledger)
    with replica(own.ledger) as worker:
        worker.claim()
        worker.say(4)
        own.kill()
        worker.publisher.release(worker.engine.release())
        assert not worker.publisher.flush(0.3)

        own.restart()
        assert worker.publisher.flush(10)

    assert state(own.ledger, job) == "queued"
