"""One of two Redis servers is away: those whose jobs live in the other are served as ever."""

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from common.errors import StorageError
from common.jobs import Job, new_id
from common.ledger.ledger import Ledger
from ops.embedded import free_port
from tests.waiting import until
from tests.worker.house import House, Own, engine_of, is_whole, replica, state, submitted, text
from worker.watch import Reaper

HERE, THERE = "00" * 16, "01" * 16  # owners; their jobs live in the first partition and in the second


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Own]:
    """The server of the second partition."""
    far = Own(tmp_path / "far")
    yield far
    far.thaw()
    far.close()


@pytest.fixture
def two(redis_url: str, far: Own) -> Iterator[Ledger]:
    """A ledger of two servers."""
    with closing(Ledger((redis_url, far.url))) as two:
        yield two


@pytest.fixture
def house(redis_url: str, tmp_path: Path) -> Iterator[House]:
    house = House(redis_url, tmp_path / "house")
    yield house
    house.close()


def asked(two: Ledger, owner: str) -> Job:
    return submitted(two, id=new_id(two.partition(owner)), owner=owner, share=owner)


def urls(two: Ledger) -> str:
    return ",".join(part._url for part in two.partitions)


def test_a_frozen_redis_does_not_stop_the_streams_of_another(two: Ledger, far: Own, house: House) -> None:
    # longer than what a worker keeps unsaid of a job
    house.worker("counting:?step_ms=5&answer=170", ledger_urls=urls(two))
    there, here = asked(two, THERE), asked(two, HERE)
    until(lambda: text(two, there) and text(two, here))

    far.freeze()
    until(lambda: is_whole(two, here, 170))
    later = asked(two, HERE)
    until(lambda: text(two, later) and is_whole(two, later, 170))

    far.thaw()
    until(lambda: is_whole(two, there, 170))


def test_a_dead_worker_is_reaped_where_redis_lives(two: Ledger, far: Own, house: House) -> None:
    workers = [house.worker("counting:?step_ms=10&answer=100", ledger_urls=urls(two)) for _ in range(2)]
    until(lambda: len(two.workers()) == 2)
    here = asked(two, HERE)
    until(lambda: text(two, here))
    watched = two.read(here.owner, here.id)
    assert watched is not None
    far.kill()

    (mine,) = (worker for worker in workers if any(watched.worker in word for word in engine_of(worker).cmdline()))
    engine = engine_of(mine)
    mine.send_signal(signal.SIGSTOP)  # it reaps nobody
    engine.send_signal(signal.SIGKILL)
    until(lambda: is_whole(two, here, 100))

    mine.send_signal(signal.SIGCONT)
    far.restart()


def test_a_worker_that_died_is_back_although_a_redis_is_away(two: Ledger, far: Own, house: House) -> None:
    worker = house.worker("counting:?step_ms=5&answer=50", ledger_urls=urls(two))
    there = asked(two, THERE)
    until(lambda: text(two, there))
    far.kill()

    engine_of(worker).send_signal(signal.SIGKILL)
    here = asked(two, HERE)
    until(lambda: text(two, here) and is_whole(two, here, 50))

    far.restart()
    until(lambda: is_whole(two, there, 50))


def test_a_beat_is_judged_where_redis_lives(redis_url: str) -> None:
    with closing(Ledger((redis_url, f"redis://127.0.0.1:{free_port()}/0"))) as half:
        here = submitted(half)
        with replica(half) as dead:
            dead.heart()
            dead.claim()
            reap = Reaper(half, 0.4)

            def is_reaped() -> bool:
                reap()
                return state(half, here) == "queued"

            until(is_reaped)


def test_what_was_counted_is_told_once_although_a_redis_is_away(redis_url: str) -> None:
    with closing(Ledger((redis_url, f"redis://127.0.0.1:{free_port()}/0"))) as half:
        submitted(half)
        with replica(half) as worker:
            worker.claim()
            worker.say(3)
            for _ in range(2):
                worker.heart()
                with pytest.raises(StorageError):
                    worker.heart(1)

            assert half.counters("m")["generation_tokens"] == 3
