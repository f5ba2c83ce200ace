"""Whole workers: a supervising parent, its engine process, real signals."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.jobs import Job
from common.ledger.ledger import Ledger
from common.ledger.wire import POISON
from tests.common.ledger_audit import audit
from tests.waiting import never, until
from tests.worker.house import House, Own, engine_of, events, is_whole, state, submitted
from worker.hot import HotFile

SLOW = "counting:?step_ms=20&answer=30"  # 1.6 s
LONG = "counting:?step_ms=20&answer=2000"


@pytest.fixture
def house(raw: Any, redis_url: str, tmp_path: Path) -> Iterator[House]:  # noqa: ARG001  Redis outlives its users
    house = House(redis_url, tmp_path)
    yield house
    house.close()
    audit(redis_url)


def _begun(ledger: Ledger, job: Job, items: int = 3) -> str:
    """Wait until so much was said; who says it."""
    until(lambda: len(events(ledger, job)) >= items)
    watched = ledger.read(job.owner, job.id)
    assert watched is not None
    return watched.worker


def _ready(ledger: Ledger, count: int) -> None:
    until(lambda: len(ledger.workers()) == count)


def _whose(worker: str, *parents: psutil.Process) -> psutil.Process:
    """The parent of the engine process with this worker id."""
    return next(one for one in parents if f"--worker={worker}" in engine_of(one).cmdline())


def _freeze_in_step(engine: psutil.Process) -> None:
    """Stop a process while its model computes."""
    files = Path(f"/proc/{engine.pid}/fd")
    path = next(file for file in files.iterdir() if "penstock-hot" in str(file.readlink()))
    with path.open("r+b", buffering=0) as file:
        hot = HotFile(file)

        def is_frozen() -> bool:
            engine.suspend()
            until(lambda: engine.status() == psutil.STATUS_STOPPED)
            if not hot.read():
                engine.resume()
            return bool(hot.read())

        until(is_frozen)
        hot.close()


def test_a_killed_engine_is_replaced_and_the_job_goes_on(house: House, ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    engine = engine_of(house.worker(SLOW))
    first = _begun(ledger, job)

    _freeze_in_step(engine)
    engine.kill()
    until(lambda: state(ledger, job) == "queued")

    until(lambda: state(ledger, job) == "done")
    assert _begun(ledger, job) != first
    assert is_whole(ledger, job, 30)
    assert raw.hget(f"{{q00}}:j:{job.id}", "attempts") == "1"  # the parent's doing: a lease that lapses charges nobody


def test_a_full_worker_hears_at_once_of_somebody_above_its_batch(house: House, ledger: Ledger, raw: Any) -> None:
    house.worker("counting:?step_ms=60000", slots=1, beat_s="50", lease_s="100")
    row = submitted(ledger, cls="batch")
    until(lambda: state(ledger, row) == "running")  # with no step, beat or ticket in sight
    until(lambda: raw.pubsub_numsub("wk:m")[0][1] == 1)

    job = submitted(ledger)

    until(lambda: state(ledger, job) == "running")


def test_a_request_that_hangs_the_engine_three_times_is_given_up(house: House, ledger: Ledger) -> None:
    job = submitted(ledger)
    parent = house.worker("counting:?step_ms=60000", stall_s="0.3")
    first = engine_of(parent).pid

    until(lambda: state(ledger, job) == "failed", 30)

    assert events(ledger, job) == [POISON]
    assert engine_of(parent).pid != first


def test_a_frozen_workers_job_goes_on_elsewhere_and_it_says_nothing_more(house: House, ledger: Ledger) -> None:
    parents = [house.worker(SLOW, lease_s="1", drain_s="0") for _ in range(2)]
    _ready(ledger, 2)
    job = submitted(ledger)
    first = _begun(ledger, job)

    frozen = engine_of(_whose(first, *parents))
    frozen.suspend()
    until(lambda: _begun(ledger, job) not in {first, ""})
    frozen.resume()

    until(lambda: state(ledger, job) == "done")
    assert is_whole(ledger, job, 30)
    _ready(ledger, 2)


def test_a_worker_that_is_told_to_end_hands_its_job_to_another(house: House, ledger: Ledger, raw: Any) -> None:
    parents = [house.worker("counting:?step_ms=20&answer=100") for _ in range(2)]
    _ready(ledger, 2)
    job = submitted(ledger)
    first = _begun(ledger, job)

    leaver = _whose(first, *parents)
    leaver.terminate()

    assert house.wait(leaver) == 0
    assert state(ledger, job) != "done"
    until(lambda: state(ledger, job) == "done")
    assert _begun(ledger, job) != first
    assert is_whole(ledger, job, 100)
    assert raw.hget(f"{{q00}}:j:{job.id}", "attempts") == "0"
    assert len(ledger.workers()) == 1


def test_the_only_worker_finishes_its_job_before_it_ends(house: House, ledger: Ledger) -> None:
    job = submitted(ledger)
    parent = house.worker(SLOW)
    _begun(ledger, job)
    parent.terminate()
    until(lambda: [info.state for info in ledger.workers()] == ["draining"])
    late = submitted(ledger)

    assert house.wait(parent) == 0

    assert is_whole(ledger, job, 30)
    assert state(ledger, late) == "queued"
    assert ledger.workers() == ()


def test_what_the_only_worker_cannot_finish_in_time_waits_for_the_next(house: House, ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    parent = house.worker(SLOW, drain_s="0.3")
    _begun(ledger, job)
    parent.terminate()
    assert house.wait(parent) == 0
    said = events(ledger, job)
    assert state(ledger, job) == "queued"

    house.worker(SLOW)

    until(lambda: state(ledger, job) == "done")
    assert events(ledger, job)[: len(said)] == said
    assert is_whole(ledger, job, 30)
    assert raw.hget(f"{{q00}}:j:{job.id}", "attempts") == "0"


def test_a_worker_that_ends_hands_over_as_soon_as_another_is_there(house: House, ledger: Ledger) -> None:
    job = submitted(ledger)
    leaver = house.worker(LONG, drain_s="50")
    first = _begun(ledger, job)
    leaver.terminate()
    house.worker(LONG)

    assert house.wait(leaver) == 0

    until(lambda: _begun(ledger, job) not in {first, ""})


def test_a_model_that_cannot_be_loaded_ends_the_worker(house: House) -> None:
    assert house.wait(house.worker("no/such/folder/at/all")) == 2


def test_a_worker_that_ends_while_it_starts_leaves_nothing(house: House) -> None:
    parent = house.worker()
    engine = engine_of(parent)

    parent.terminate()

    assert house.wait(parent) == 0
    assert not engine.is_running()


def test_a_worker_that_ends_between_two_lives_of_its_engine_ends(house: House, ledger: Ledger) -> None:
    parent = house.worker()
    _ready(ledger, 1)
    engine_of(parent).kill()
    until(lambda: not parent.children())

    parent.terminate()

    assert house.wait(parent) == 0


def test_an_engine_does_not_outlive_its_parent(house: House, ledger: Ledger) -> None:
    job = submitted(ledger)
    parent = house.worker(LONG, drain_s="0")
    _begun(ledger, job)
    engine = engine_of(parent)

    parent.kill()
    until(lambda: not engine.is_running())

    assert state(ledger, job) == "queued"


def test_a_worker_outlives_a_redis_that_is_killed(tmp_path: Path) -> None:
    own = Own(tmp_path / "redis")
    house = House(own.url, tmp_path)
    job = submitted(own.ledger)
    parent = house.worker(SLOW)
    _begun(own.ledger, job)
    engine = engine_of(parent)

    own.kill()
    assert never(lambda: not engine.is_running(), 1.0)
    own.restart()

    until(lambda: state(own.ledger, job) == "done")
    is_right = is_whole(own.ledger, job, 30)
    is_same = engine_of(parent) == engine
    house.close()
    own.close()
    assert (is_right, is_same) == (True, True)


def test_a_worker_that_starts_while_redis_is_away_works_when_it_is_back(tmp_path: Path) -> None:
    own = Own(tmp_path / "redis")
    house = House(own.url, tmp_path)
    job = submitted(own.ledger)
    own.kill()
    engine = engine_of(house.worker())
    assert never(lambda: not engine.is_running(), 2.5)

    own.restart()
    until(lambda: state(own.ledger, job) == "done")

    is_right = is_whole(own.ledger, job, 100) and engine.is_running()
    house.close()
    own.close()
    assert is_right


def test_a_redis_that_lost_everything_hears_of_the_model_again(house: House, ledger: Ledger, raw: Any) -> None:
    house.worker()
    until(lambda: "m" in ledger.cards(["m"]) and len(ledger.workers()) == 1)

    raw.flushall()

    until(lambda: "m" in ledger.cards(["m"]) and len(ledger.workers()) == 1)
    job = submitted(ledger)
    until(lambda: state(ledger, job) == "done")


def test_the_chores_end_what_is_past_its_deadline(house: House, ledger: Ledger, raw: Any) -> None:
    job = submitted(ledger)
    raw.hset(f"{{q00}}:j:{job.id}", mapping={"wait_at": "1.000", "end_at": "1.000"})
    raw.zadd("{q00}:dl", {job.id: 1})

    chores = house.chores()

    until(lambda: state(ledger, job) == "expired")
    chores.send_signal(signal.SIGINT)
    assert house.wait(chores) == 0
