from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from common.jobs import Delta, Done, Sampling, Usage
from common.ledger.ledger import Ledger
from tests.common.ledger_audit import audit
from tests.common.lossy import lossy
from tests.waiting import until
from tests.worker.house import Own, counted, events, is_whole, replica, state, submitted, text, tokens

FAR = 2000  # counts so far that a test decides when it ends


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


def _cut(raw: Any, job_id: str, to: int) -> None:
    """What a Redis has that was restored from before."""
    raw.ltrim(f"{{q00}}:t:{job_id}", 0, to - 1) if to else raw.delete(f"{{q00}}:t:{job_id}")


def test_every_item_is_said_once_and_in_order(ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    with replica(ledger, answer=12) as worker:
        worker.claim()

        worker.finish()

    said = tokens(ledger, job)
    assert (text(ledger, job), events(ledger, job)[-1]) == (counted(12), Done(Usage(3, len(said))))
    assert raw.hget(f"{{q00}}:j:{job.id}", "ntok") == str(len(said))
    assert state(ledger, job) == "done"


def test_the_first_token_is_said_at_once(ledger: Ledger) -> None:
    job = submitted(ledger)
    with replica(ledger, flush_s=3600) as worker:
        worker.claim()
        worker.step()
        until(lambda: text(ledger, job) == "1")

        worker.step()
        until(lambda: not worker.publisher._is_sending)

        assert text(ledger, job) == "1"  # the second waits for the interval
        worker.say()


def test_the_end_is_said_at_once(ledger: Ledger) -> None:
    job = submitted(ledger)
    with replica(ledger, answer=4, flush_s=3600) as worker:
        worker.claim()
        while worker.engine.stalled_s() is not None:
            worker.step()

        until(lambda: state(ledger, job) == "done")

    assert text(ledger, job) == counted(4)


def test_tokens_that_come_close_together_are_one_item(ledger: Ledger) -> None:
    job = submitted(ledger)
    with replica(ledger, flush_s=3600) as worker:
        worker.claim()
        worker.say()

        worker.step(6)
        worker.say()

    assert [event.text for event in events(ledger, job) if isinstance(event, Delta)] == ["1", " 2 3 4 "]
    assert len(tokens(ledger, job)) == 8


def test_choices_are_merged_each_for_itself(ledger: Ledger) -> None:
    job = submitted(ledger, n=2)
    with replica(ledger, answer=3, flush_s=3600) as worker:
        worker.claim()
        worker.say()

        worker.finish()

    deltas = [(event.choice, event.text, event.finish) for event in events(ledger, job) if isinstance(event, Delta)]
    assert deltas[2:] == [(0, " 2 3", None), (1, " 2 3", None), (0, "", "stop"), (1, "", "stop")]


def test_the_finish_is_an_item_of_its_own(ledger: Ledger) -> None:
    job = submitted(ledger, sampling=Sampling(5, 0.0))
    with replica(ledger, flush_s=3600) as worker:
        worker.claim()
        worker.say()

        worker.finish()

    _, middle, finish, done = events(ledger, job)
    assert (middle, finish) == (Delta(" 2 3", (tuple(tokens(ledger, job))[1:])), Delta("", (), finish="length"))
    assert done == Done(Usage(3, 5))


def test_lost_replies_change_nothing(redis_url: str, ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    with lossy(redis_url) as line:
        far = Ledger((line.url,))
        with replica(far, answer=4) as worker:
            worker.claim()
            while worker.engine.stalled_s() is not None:
                line.losses = 4  # more than one call tries
                worker.say()
        far.close()

    assert is_whole(ledger, job, 4)
    assert raw.hget(f"{{q00}}:j:{job.id}", "ntok") == str(len(tokens(ledger, job)))


def test_a_redis_that_is_killed_in_mid_job_changes_nothing(own: Own) -> None:
    jobs = [submitted(own.ledger) for _ in range(3)]
    with replica(own.ledger, answer=80, step_ms=2) as worker:
        for _ in jobs:
            worker.claim()
        worker.engine.start()
        for _ in range(2):
            until(lambda: bool(worker.publisher._is_sending))
            own.kill()
            before = worker.engine.counters["generation_tokens"]
            until(lambda at=before: worker.engine.counters["generation_tokens"] > at + 20)  # type: ignore[misc]
            own.restart()
        until(lambda: worker.is_idle)

    assert [is_whole(own.ledger, job, 80) for job in jobs] == [True] * 3
    audit(own.url)


@pytest.mark.parametrize("kept", [0, 5])
def test_a_redis_that_comes_back_with_less_hears_the_rest_again(ledger: Ledger, raw: Any, kept: int) -> None:
    job = submitted(ledger)
    with replica(ledger, answer=12) as worker:
        worker.claim()
        for _ in range(10):
            worker.say()
        before = events(ledger, job)
        _cut(raw, job.id, kept)

        worker.finish()

    assert events(ledger, job)[:10] == before
    assert is_whole(ledger, job, 12)
    assert raw.hget(f"{{q00}}:j:{job.id}", "ntok") == str(len(tokens(ledger, job)))


def test_what_an_earlier_worker_said_is_healed_as_well(ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    with replica(ledger, "early") as early:
        early.claim()
        for _ in range(6):
            early.say()
        ledger.reap("early")
    with replica(ledger, answer=12) as worker:
        worker.claim()
        worker.say()
        _cut(raw, job.id, 2)

        worker.finish()

    assert is_whole(ledger, job, 12)
    assert raw.hget(f"{{q00}}:j:{job.id}", "ntok") == str(len(tokens(ledger, job)))


def test_a_last_word_that_redis_missed_is_said_again(ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    with replica(ledger, answer=4) as worker:
        worker.claim()
        worker.say(3)
        _cut(raw, job.id, 0)

        while worker.engine.stalled_s() is not None:
            worker.step()
        until(lambda: state(ledger, job) == "done")

    assert is_whole(ledger, job, 4)


def test_there_is_never_more_than_one_call_under_way(own: Own) -> None:
    jobs = [submitted(own.ledger) for _ in range(2)]
    with replica(own.ledger, answer=60, step_ms=1) as worker, redis.Redis.from_url(own.url) as raw:
        for _ in jobs:
            worker.claim()
        worker.say()
        raw.client_pause(5000, all=False)  # calls that write have to wait
        worker.engine.start()

        before = worker.engine.counters["steps"]
        until(lambda: worker.engine.counters["steps"] > before + 50)
        waiting = [client for client in raw.client_list() if client["cmd"].startswith("evalsha")]
        raw.client_unpause()
        until(lambda: worker.is_idle)

    assert len([client for client in waiting if "b" in client["flags"]]) == 1
    assert [is_whole(own.ledger, job, 60) for job in jobs] == [True] * 2


def test_the_engine_waits_for_a_job_that_is_too_far_ahead_and_goes_on_later(own: Own) -> None:
    job = submitted(own.ledger)
    with replica(own.ledger, answer=400) as worker:
        worker.claim()
        worker.say(10)
        own.kill()
        worker.engine.start()

        until(lambda: worker.publisher.unblocked_s() < 0)
        ahead = worker.engine.counters["generation_tokens"] - 10
        is_idle = worker.engine.wait_idle(0.3)  # it stays where it is
        own.restart()
        until(lambda: worker.is_idle)

    assert (ahead, is_idle) == (513, False)
    assert is_whole(own.ledger, job, 400)


def test_a_job_that_was_healed_may_be_as_far_ahead_as_any_other(ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    with replica(ledger, answer=400) as worker:
        worker.claim()
        worker.say(20)
        _cut(raw, job.id, 0)
        worker.say()
        raw.client_pause(60_000, all=False)
        worker.engine.start()

        until(lambda: worker.publisher.unblocked_s() < 0)
        ahead = worker.engine.counters["generation_tokens"] - 21
        raw.client_unpause()
        until(lambda: worker.is_idle)

    assert ahead == 513
    assert is_whole(ledger, job, 400)


def test_the_engine_goes_on_when_the_job_it_waited_for_is_not_ours_any_more(ledger: Ledger, raw: Any) -> None:
    mine = submitted(ledger)
    with replica(ledger, answer=FAR) as worker:
        worker.claim()
        worker.say(3)
        raw.client_pause(60_000, all=False)
        worker.engine.start()
        until(lambda: worker.publisher.unblocked_s() < 0)
        raw.client_unpause()
        until(lambda: worker.publisher.unblocked_s() > 0)
        ledger.reap("w1")

        until(lambda: worker.is_idle)

    assert state(ledger, mine) == "queued"


def test_a_publisher_that_is_stopped_lets_the_engine_go(own: Own) -> None:
    submitted(own.ledger)
    with replica(own.ledger, answer=FAR) as worker:
        worker.claim()
        own.kill()
        worker.engine.start()
        until(lambda: worker.publisher.unblocked_s() < 0)

        worker.publisher.stop(0.1)

        until(lambda: worker.publisher.unblocked_s() > 0)
    own.restart()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_publisher_that_dies_of_a_broken_ledger_is_known_to_be_lost(ledger: Ledger, raw: Any) -> None:
    with replica(ledger) as worker:
        job = submitted(ledger)
        worker.claim()
        raw.set(f"{{q00}}:t:{job.id}", "not a log")

        worker.step()
        until(lambda: worker.publisher.is_lost)

        raw.delete(f"{{q00}}:t:{job.id}")
