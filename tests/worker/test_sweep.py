from collections.abc import Iterator
from typing import Any

import pytest

from common import broker
from common.broker import Tickets
from common.ledger.ledger import Ledger
from common.settings import Model, Settings
from tests.waiting import never, until
from tests.worker.house import LIMITS, counting, state, submitted
from worker.chores.sweep import Sweep, periodic

WINDOW = 2 * 4 + 64


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"models": (Model(name="m", path="counting:", slots=4),)})


@pytest.fixture
def tickets(settings: Settings) -> Iterator[Tickets]:
    tickets = Tickets(settings)
    yield tickets
    tickets.close()


@pytest.fixture
def sweep(settings: Settings, ledger: Ledger, tickets: Tickets) -> Sweep:
    return Sweep(settings, ledger, tickets, front_end_s=0.3)


def _length(sweep: Sweep, tickets: Tickets) -> int:
    """Of the queue, after one more round."""
    sweep()
    return broker.length(tickets._app, "m")


def test_jobs_whose_tickets_were_lost_get_others_although_no_worker_is_up(
    ledger: Ledger, tickets: Tickets, sweep: Sweep
) -> None:
    for _ in range(3):
        submitted(ledger)

    until(lambda: _length(sweep, tickets) > 0)

    assert broker.length(tickets._app, "m") == 3
    assert never(lambda: _length(sweep, tickets) != 3, 1.5)


def test_tickets_that_are_on_their_way_are_not_sent_again(ledger: Ledger, tickets: Tickets, sweep: Sweep) -> None:
    submitted(ledger)
    sweep()
    tickets.send("m")

    assert never(lambda: _length(sweep, tickets) > 1, 1.5)


def test_a_ticket_gets_a_second_to_arrive(ledger: Ledger, tickets: Tickets, sweep: Sweep) -> None:
    submitted(ledger)

    assert never(lambda: _length(sweep, tickets) > 0, 0.7)


def test_no_more_tickets_are_sent_than_workers_could_take_soon(ledger: Ledger, tickets: Tickets, sweep: Sweep) -> None:
    for _ in range(WINDOW + 10):
        ledger.submit(counting(), LIMITS)

    until(lambda: _length(sweep, tickets) > 0)

    assert broker.length(tickets._app, "m") == WINDOW


def test_a_job_past_its_deadline_ends_although_no_worker_is_up(ledger: Ledger, raw: Any, sweep: Sweep) -> None:
    job = submitted(ledger)
    raw.hset(f"{{q00}}:j:{job.id}", mapping={"wait_at": "1.000", "end_at": "1.000"})
    raw.zadd("{q00}:dl", {job.id: 1})

    sweep()

    assert state(ledger, job) == "expired"


def test_a_front_end_that_fell_silent_is_forgotten(ledger: Ledger, sweep: Sweep) -> None:
    ledger.beat_front_end("silent")
    ledger.beat_front_end("lively")

    def is_forgotten() -> bool:
        ledger.beat_front_end("lively")
        sweep()
        known = {beat.who for beat in ledger.front_end_beats()}  # perhaps also of another test's front end
        assert "lively" in known
        return "silent" not in known

    until(is_forgotten)


def test_only_one_does_the_periodic_work(
    settings: Settings, ledger: Ledger, tickets: Tickets, sweep: Sweep, raw: Any
) -> None:
    other = Sweep(settings, ledger, tickets)
    sweep()
    job = submitted(ledger)
    raw.hset(f"{{q00}}:j:{job.id}", mapping={"wait_at": "1.000", "end_at": "1.000"})
    raw.zadd("{q00}:dl", {job.id: 1})

    other()
    before = state(ledger, job)
    raw.delete("{q00}:lease:sweep")  # as its time does
    other()

    assert (before, state(ledger, job)) == ("queued", "expired")


def test_the_thread_sweeps_by_itself(settings: Settings, ledger: Ledger, tickets: Tickets) -> None:
    submitted(ledger)
    thread, *_ = periodic(settings, ledger, tickets)

    thread.start()
    until(lambda: broker.length(tickets._app, "m") == 1)
    thread.stop()
