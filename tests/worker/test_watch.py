import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from common.errors import StorageError
from common.jobs import CLASSES
from common.ledger.keys import job as job_key
from common.ledger.keys import room
from common.ledger.ledger import Ledger
from common.ledger.replies import Beat, WorkerInfo
from common.ledger.wire import CANCELLED, EXPIRED
from tests.common.ledger_audit import alter
from tests.waiting import never, until
from tests.worker.house import Own, events, is_whole, replica, state, submitted
from worker.watch import Lapses, Periodic, Reaper


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """Redis itself, behind the ledger's back."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    own = Own(tmp_path)
    yield own
    own.close()


def _is_away(reap: Reaper) -> bool:
    try:
        reap()
    except StorageError:
        return True
    return False


def test_a_beat_that_stands_still_for_the_lease_has_lapsed() -> None:
    lapses = Lapses(2.0)
    still, lively = Beat("still", "1"), [Beat("lively", str(at)) for at in range(6)]

    judged = [lapses.read([still, lively[at]], at * 0.5) for at in range(6)]

    assert judged == [[], [], [], [], [still], [still]]


def test_a_reader_that_was_away_condemns_nobody() -> None:
    lapses = Lapses(2.0)
    still = Beat("still", "1")
    lapses.read([still], 0.0)

    assert lapses.read([still], 60.0) == []
    assert [bool(lapses.read([still], 60.0 + at * 0.5)) for at in range(1, 5)] == [False, False, False, True]


def test_a_beat_that_moves_again_lives() -> None:
    lapses = Lapses(1.0)
    for at in range(2):
        lapses.read([Beat("one", "1")], at * 0.5)

    assert lapses.read([Beat("one", "2")], 1.0) == []
    assert lapses.read([Beat("one", "2")], 1.5) == []
    assert lapses.read([Beat("one", "2")], 2.0) == [Beat("one", "2")]


def test_a_worker_that_comes_back_is_judged_afresh() -> None:
    lapses = Lapses(1.0)
    lapses.read([Beat("one", "1")], 0.0)
    lapses.read([], 0.5)

    assert lapses.read([Beat("one", "1")], 1.0) == []


def test_a_worker_is_judged_in_each_partition_by_the_beat_there() -> None:
    lapses = Lapses(1.0)
    here, there = Beat("one", "1", 0), [Beat("one", str(at), 1) for at in range(4)]

    judged = [lapses.read([here, there[at]], at * 0.5) for at in range(4)]

    assert judged == [[], [], [here], [here]]


def test_a_thread_outlives_a_round_that_fails() -> None:
    rounds: list[int] = []

    def work() -> None:
        rounds.append(len(rounds))
        raise ValueError

    thread = Periodic("thread", 0.01, work)
    thread.start()
    until(lambda: len(rounds) > 2)
    thread.stop()


def test_a_round_that_leaves_something_to_do_is_followed_at_once() -> None:
    rounds: list[int] = []

    def work() -> bool:
        rounds.append(len(rounds))
        return len(rounds) < 50

    thread = Periodic("thread", 3600, work)
    thread.start()
    until(lambda: len(rounds) == 50)
    thread.stop()

    assert len(rounds) == 50


def test_a_dead_workers_job_continues_elsewhere(ledger: Ledger) -> None:
    job = submitted(ledger)
    with replica(ledger, "dead", answer=12) as dead, replica(ledger, "heir", answer=12) as heir:
        dead.heart()
        dead.claim()
        dead.say(5)
        reap = Reaper(ledger, 0.4)

        def is_reaped() -> bool:
            heir.heart()
            reap()
            return state(ledger, job) == "queued"

        until(is_reaped)

        assert [info.worker for info in ledger.workers()] == ["heir"]
        assert heir.claim().attempts == 0
        heir.finish()
    assert is_whole(ledger, job, 12)


@pytest.mark.parametrize(
    ("ends", "begins"),
    [
        (Own.kill, Own.restart),
        (lambda own: own.set("maxmemory", 1), lambda own: own.set("maxmemory", 2**30)),
        (lambda own: own.set("min-replicas-to-write", 1), lambda own: own.set("min-replicas-to-write", 0)),
    ],
    ids=["killed", "full", "without replicas"],
)
def test_a_storage_in_which_nobody_can_beat_reaps_nobody(
    own: Own, ends: Callable[[Own], None], begins: Callable[[Own], None]
) -> None:
    job = submitted(own.ledger)
    with replica(own.ledger) as worker:
        worker.heart()
        worker.claim()
        reap = Reaper(own.ledger, 0.4)
        reap()
        ends(own)
        assert never(lambda: not _is_away(reap), 0.6)
        begins(own)

        reap()
        first = state(own.ledger, job)
        until(lambda: reap() is None and state(own.ledger, job) == "queued")  # type: ignore[func-returns-value]

    assert first == "running"
    assert not own.ledger.partitions[0].redis.exists(room("{q00}"))


def test_where_there_is_no_room_for_a_list_of_jobs_a_beat_does_without(own: Own) -> None:
    part = own.ledger.partitions[0]
    info, many = WorkerInfo("w1", "m", 4, 4, "ready"), [f"{at:034d}" for at in range(20_000)]
    own.ledger.beat(info, {"steps": 1})
    (before,) = own.ledger.worker_beats()

    own.set("maxmemory", part.redis.info("memory")["used_memory"] + 200_000)
    own.ledger.beat(info, {"steps": 1}, many)
    (after,) = own.ledger.worker_beats()

    assert after.at != before.at
    assert own.ledger.counters("m") == {"steps": 2}


def test_a_beat_says_what_there_is_room_for(ledger: Ledger) -> None:
    submitted(ledger)
    with replica(ledger) as worker:
        worker.claim()
        worker.heart()

        assert ledger.workers() == (WorkerInfo("w1", "m", 4, 3, "ready", None, {"sequences_running": 0}),)


def test_a_worker_that_drains_says_so_at_once(ledger: Ledger) -> None:
    with replica(ledger) as worker:
        worker.heart.drain()

        assert [info.state for info in ledger.workers()] == ["draining"]


def test_what_was_counted_is_told_once(ledger: Ledger) -> None:
    submitted(ledger)
    with replica(ledger, answer=12) as worker:
        worker.claim()
        for _ in range(3):
            worker.say(2)
            worker.heart()
            worker.heart()

        told = ledger.counters("m")
        assert told == pytest.approx({name: value for name, value in worker.engine.counters.items() if value})
        assert told["generation_tokens"] == 6


def test_what_was_counted_during_an_outage_is_told_after_it(own: Own) -> None:
    submitted(own.ledger)
    with replica(own.ledger, answer=12) as worker:
        worker.claim()
        worker.say(2)
        worker.heart()
        own.kill()
        worker.step(3)
        with pytest.raises(StorageError):
            worker.heart()
        own.restart()

        worker.heart()

        assert own.ledger.counters("m")["generation_tokens"] == 5


def test_a_cancelled_job_ends_with_the_next_beat(ledger: Ledger) -> None:
    job = submitted(ledger)
    with replica(ledger) as worker:
        worker.claim()
        worker.say(3)
        ledger.cancel(job.owner, job.id)

        worker.heart()

        assert worker.engine.room().free == 4
        worker.finish()
    assert (state(ledger, job), events(ledger, job)[-1]) == ("cancelled", CANCELLED)


def test_a_job_past_its_time_ends_with_the_next_beat(ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    with replica(ledger) as worker:
        worker.claim()
        worker.say(3)
        alter(raw, job.id, end_at=f"{time.time() - 1:.3f}")
        raw.zadd("{q00}:dl", {job.id: 1})
        ledger.sweep()

        worker.heart()

        assert worker.engine.room().free == 4
        worker.finish()
    assert (state(ledger, job), events(ledger, job)[-1]) == ("expired", EXPIRED)


def test_a_row_that_was_claimed_ahead_and_given_back_has_all_its_time(ledger: Ledger, raw: Any) -> None:
    submitted(ledger)
    row = submitted(ledger, cls="batch", max_time_s=30)
    with replica(ledger, slots=1, answer=12, parked_s=0) as worker:
        worker.claim()
        worker.claim()
        worker.say(2)
        worker.heart()
        worker.finish()
        assert state(ledger, row) == "queued"
        raw.hincrbyfloat(job_key("{q00}", row.id), "begun", -100)  # it waited

        worker.claim()
        worker.finish()

    assert is_whole(ledger, row, 12)


def test_a_claim_that_only_redis_remembers_goes_back(ledger: Ledger, raw: Any) -> None:
    lost, kept = submitted(ledger), submitted(ledger)
    with replica(ledger, answer=5) as worker:
        assert ledger.claim("w1", "m", CLASSES)  # and its reply never came
        worker.claim()
        for job in (lost, kept):
            alter(raw, job.id, claimed="1.000")

        worker.heart()

        assert (state(ledger, lost), state(ledger, kept)) == ("queued", "running")
        worker.finish()
    assert is_whole(ledger, kept, 5)


def test_a_last_word_that_only_we_remember_is_said_by_the_next(ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    with replica(ledger, answer=5) as worker:
        worker.claim()
        worker.say(3)
        before = {key: raw.dump(key) for key in raw.scan_iter()}
        worker.finish()
        assert state(ledger, job) == "done"
        raw.flushall()
        for key, value in before.items():
            raw.restore(key, 0, value)
        alter(raw, job.id, claimed="1.000")

        worker.heart()
        worker.claim()
        worker.finish()

    assert is_whole(ledger, job, 5)


def test_an_engine_that_does_not_step_is_stalled(ledger: Ledger) -> None:
    submitted(ledger)
    with replica(ledger, step_ms=500, stall_s=0.1) as worker:
        worker.claim()
        assert worker.heart._why_lost() is None
        worker.engine.start()

        until(lambda: worker.heart._why_lost() == "the engine hangs")


def test_an_engine_that_waits_for_redis_is_not_stalled_and_neither_is_it_after(ledger: Ledger, raw: Any) -> None:
    submitted(ledger)
    with replica(ledger, answer=200, stall_s=0.2) as worker:
        worker.claim()
        worker.say(3)
        raw.client_pause(60_000, all=False)
        worker.engine.start()
        until(lambda: worker.publisher.unblocked_s() < 0)

        assert never(lambda: worker.heart._why_lost() is not None, 0.5)
        raw.client_unpause()
        while not worker.is_idle:
            assert worker.heart._why_lost() is None
