from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from kombu import Connection

from common import broker
from common.broker import Tickets
from common.jobs import CLASSES, Class, Sampling
from common.ledger.ledger import Ledger
from common.ledger.replies import Ring
from common.settings import Model, Settings
from tests.common.lossy import lossy
from tests.waiting import never, until
from tests.worker.house import LIMITS, Replica, counting, is_whole, replica, state, submitted, tokens
from worker.engine.engine import Room
from worker.tickets import Waker, claimable

FAR = 2000  # counts so far that a test decides when it ends


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"models": (Model(name="m", path="counting:", slots=4),)})


@pytest.fixture
def tickets(settings: Settings) -> Iterator[Tickets]:
    tickets = Tickets(settings)
    yield tickets
    tickets.close()


@contextmanager
def awake(settings: Settings, worker: Replica) -> Iterator[Waker]:
    """A worker whom only tickets wake, and Celery that listens for it."""
    waker = Waker(settings, "m", worker.intake.ticket)
    waker.start()
    worker.intake.start()
    try:
        until(lambda: worker.intake._done > 0)
        yield waker
    finally:
        worker.intake.close()
        waker.stop()


def _room(free: int, lowest: Class | None = None, entering: Sequence[Class] = (), soon: int = 0) -> Room:
    return Room(4, free, frozenset(entering), lowest, soon=soon)


ALL_WAIT: dict[Class, int] = dict.fromkeys(CLASSES, 1)


@pytest.mark.parametrize(
    ("room", "waiting", "classes"),
    [
        (_room(4), {}, CLASSES),
        (_room(1, "interactive"), {}, CLASSES),
        (_room(1, "batch", ["interactive"]), {}, CLASSES),
        (_room(0, "interactive"), ALL_WAIT, ()),
        (_room(0, "normal"), ALL_WAIT, ("interactive",)),
        (_room(0, "batch"), ALL_WAIT, ("interactive", "normal")),
        (_room(0, "batch"), {"normal": 1, "batch": 9}, ("normal",)),
        (_room(0, "batch"), {}, ()),
        (_room(-3, "batch", ["interactive"]), ALL_WAIT, ("normal",)),
        (_room(-3, "batch", ["interactive", "normal"]), ALL_WAIT, ()),
        (_room(0), ALL_WAIT, ()),
        (_room(0, "batch", soon=2), {"batch": 5}, ("batch",)),
        (_room(-1, "batch", ["batch"], 2), {"batch": 5}, ("batch",)),
        (_room(-2, "batch", soon=2), {"batch": 5}, ()),
        (_room(0, "batch", soon=2), {"batch": 4}, ()),  # others may want them
        (_room(0, "batch", soon=2), {"normal": 1, "batch": 5}, ("normal",)),
        (_room(0, "batch", ["normal"], soon=2), {"normal": 1, "batch": 5}, ()),
        (_room(0, "normal", soon=2), {"normal": 9, "batch": 9}, ()),
    ],
)
def test_a_worker_claims_what_it_has_room_for(room: Room, waiting: dict[Class, int], classes: Sequence[Class]) -> None:
    assert claimable(room, waiting) == classes


def test_a_ticket_wakes_an_idle_worker(ledger: Ledger, settings: Settings, tickets: Tickets) -> None:
    with replica(ledger) as worker, awake(settings, worker):
        job = submitted(ledger)

        assert tickets.send("m")
        until(lambda: worker.publisher.held() == (job.id,))

        worker.finish()
    assert is_whole(ledger, job, 30)


def test_a_ticket_takes_as_many_jobs_as_there_is_room_for(ledger: Ledger, settings: Settings, tickets: Tickets) -> None:
    jobs = [counting() for _ in range(6)]
    with replica(ledger) as worker, awake(settings, worker):
        for job in jobs:
            ledger.submit(job, LIMITS)

        tickets.send("m")
        until(lambda: len(worker.publisher.held()) == 4)
        until(lambda: broker.length(tickets._app, "m") == 0)

        assert ledger.waiting("m")["interactive"] == 2


def test_a_ticket_too_many_does_no_harm(ledger: Ledger, settings: Settings, tickets: Tickets) -> None:
    with replica(ledger) as worker, awake(settings, worker):
        for _ in range(3):
            tickets.send("m")
        until(lambda: broker.length(tickets._app, "m") == 0)

        job = submitted(ledger)
        tickets.send("m")
        until(lambda: worker.publisher.held() == (job.id,))


def test_a_lost_ticket_costs_a_beat(ledger: Ledger) -> None:
    with replica(ledger) as worker:
        worker.intake.start()
        until(lambda: worker.intake._done > 0)
        job = submitted(ledger)  # and no ticket

        worker.heart()
        until(lambda: worker.publisher.held() == (job.id,))


def test_jobs_that_wait_are_taken_as_soon_as_one_ends(ledger: Ledger) -> None:
    jobs = [submitted(ledger) for _ in range(3)]
    with replica(ledger, slots=1, answer=5) as worker:
        worker.intake.start()
        worker.engine.start()

        until(lambda: [state(ledger, job) for job in jobs] == ["done"] * 3)

    assert [is_whole(ledger, job, 5) for job in jobs] == [True] * 3


def test_a_full_worker_holds_one_ticket_and_leaves_the_others(
    ledger: Ledger, settings: Settings, tickets: Tickets
) -> None:
    with replica(ledger, slots=1) as worker, awake(settings, worker) as waker:
        submitted(ledger)
        tickets.send("m")
        until(lambda: worker.engine.room().free == 0)

        for _ in range(5):
            tickets.send("m")
        until(lambda: waker._in_hand == 1)

        assert never(lambda: broker.length(tickets._app, "m") != 4)
        worker.finish()
        until(lambda: broker.length(tickets._app, "m") == 0)


def test_who_has_room_leaves_an_arrival_to_the_tickets(ledger: Ledger) -> None:
    with replica(ledger, slots=1) as worker:
        worker.intake.start()
        until(lambda: worker.intake._done == worker.intake._asked)
        job = submitted(ledger)

        worker.intake.arrived(Ring(job.id, 0, False, (b"interactive",)))

        assert worker.intake._done == worker.intake._asked
        assert state(ledger, job) == "queued"
        worker.intake.heard({"interactive": 1})
        until(lambda: state(ledger, job) == "running")
        worker.finish()


def test_a_worker_with_room_again_is_awake_at_once(ledger: Ledger, settings: Settings, tickets: Tickets) -> None:
    with replica(ledger, slots=1) as worker, awake(settings, worker) as waker:
        submitted(ledger)
        tickets.send("m")
        until(lambda: worker.engine.room().free == 0)
        tickets.send("m")
        until(lambda: waker._in_hand == 1)

        worker.finish()  # nobody waits, so nothing is claimed, and yet:
        until(lambda: waker._in_hand == 0)


def test_a_message_that_is_not_json_is_refused_and_the_next_ticket_is_heard(
    ledger: Ledger, settings: Settings, tickets: Tickets, redis_url: str
) -> None:
    with replica(ledger) as worker, awake(settings, worker) as waker:
        with Connection(redis_url) as connection, connection.Producer() as producer:
            told = {"headers": {"id": "1", "task": broker.TICKET, "lang": "py"}, "serializer": "pickle"}
            producer.publish(((), {"model": "m"}, {}), declare=[broker.queue("m")], routing_key="llm.m", **told)
        until(lambda: broker.length(tickets._app, "m") == 0)

        job = submitted(ledger)
        tickets.send("m")
        until(lambda: worker.publisher.held() == (job.id,))

        assert waker._taken == 1


def test_a_consumer_that_went_deaf_is_replaced(ledger: Ledger, settings: Settings, tickets: Tickets) -> None:
    with replica(ledger) as worker, awake(settings, worker) as waker:
        deaf = waker._controller
        until(lambda: deaf.consumer is not None and deaf.consumer.task_consumer is not None)
        deaf.hub.call_soon(deaf.consumer.task_consumer.cancel)
        job = submitted(ledger)
        tickets.send("m")
        assert never(lambda: waker._taken > 0)

        waker.look()
        waker.look()
        until(lambda: worker.publisher.held() == (job.id,))


def test_a_consumer_with_a_ticket_in_hand_is_not_deaf(ledger: Ledger, settings: Settings, tickets: Tickets) -> None:
    with replica(ledger, slots=1) as worker, awake(settings, worker) as waker:
        submitted(ledger)
        for _ in range(3):
            tickets.send("m")
        until(lambda: waker._taken == 2 and waker._in_hand == 1)  # the first filled it, the second waits for room
        before = waker._controller

        for _ in range(3):
            waker.look()

        assert waker._controller is before


def test_a_higher_class_takes_the_place_of_batch_work(ledger: Ledger) -> None:
    batch = [submitted(ledger, cls="batch") for _ in range(2)]
    with replica(ledger, slots=2, answer=12) as worker:
        worker.intake.start()
        until(lambda: len(worker.publisher.held()) == 2)
        worker.say(3)
        person = submitted(ledger)

        worker.say()
        until(lambda: person.id in worker.publisher.held())
        worker.say(2)

        assert (len(tokens(ledger, person)), worker.engine.counters["preemptions"]) == (2, 1)
        worker.finish()
    assert [is_whole(ledger, job, 12) for job in (person, *batch)] == [True] * 3


def test_a_full_worker_leaves_its_own_class_in_the_queue(ledger: Ledger) -> None:
    for _ in range(2):
        submitted(ledger)
    with replica(ledger, slots=1) as worker:
        worker.intake.start()
        until(lambda: len(worker.publisher.held()) == 1)
        worker.say()

        worker.heart()

        assert never(lambda: len(worker.publisher.held()) > 1)


def test_a_job_that_was_parked_for_long_goes_to_another_worker(ledger: Ledger) -> None:
    batch = submitted(ledger, cls="batch")
    with replica(ledger, "busy", slots=1, answer=FAR, parked_s=0.3) as busy, replica(ledger, "idle", answer=40) as idle:
        busy.claim()
        busy.say(20)
        person = submitted(ledger)
        busy.claim()
        busy.say()
        busy.heart()
        before = state(ledger, batch)

        until(lambda: busy.heart() is None and busy.publisher.held() == (person.id,))  # type: ignore[func-returns-value]

        assert (before, idle.claim().attempts) == ("running", 0)
        idle.finish()
    assert is_whole(ledger, batch, 40)


def test_every_tenth_claim_with_room_is_for_the_lowest_class(ledger: Ledger) -> None:
    people = [submitted(ledger) for _ in range(12)]
    batch = submitted(ledger, cls="batch")
    with replica(ledger, slots=10) as worker:
        worker.intake.start()
        until(lambda: len(worker.publisher.held()) == 10)

        assert worker.publisher.held() == (*(job.id for job in people[:9]), batch.id)


def test_who_runs_because_it_is_its_class_turn_gives_way_to_nobody(ledger: Ledger) -> None:
    people = [submitted(ledger) for _ in range(20)]
    batch = submitted(ledger, cls="batch")
    with replica(ledger, slots=10, answer=12) as worker:
        worker.intake.start()
        until(lambda: len(worker.publisher.held()) == 10)
        worker.say(3)
        worker.heart()

        assert never(lambda: people[9].id in worker.publisher.held())
        worker.say(2)
        assert len(tokens(ledger, batch)) == 5
        while state(ledger, people[-1]) != "done":
            worker.finish()
    assert worker.engine.counters["preemptions"] == 0


def test_a_job_of_more_choices_than_there_is_room_for_enters_bit_by_bit(ledger: Ledger) -> None:
    wide = submitted(ledger, n=6, sampling=Sampling(9, 0.0))
    with replica(ledger) as worker:
        worker.intake.start()
        until(lambda: worker.publisher.held() == (wide.id,))
        other = submitted(ledger)
        worker.say()
        worker.heart()
        assert never(lambda: other.id in worker.publisher.held())

        worker.engine.start()
        until(lambda: state(ledger, other) == "done")

    assert len(tokens(ledger, wide)) == 6 * 9


def test_a_claim_whose_reply_was_lost_is_asked_for_again(redis_url: str, ledger: Ledger) -> None:
    with lossy(redis_url) as line:
        far = Ledger((line.url,))
        with replica(far) as worker:
            worker.intake.start()
            until(lambda: worker.intake._done > 0)
            job = submitted(ledger)
            line.losses = 3
            worker.intake.heard({"interactive": 1})
            until(lambda: line.losses == 0)
            until(lambda: worker.intake.held() == ())
            assert state(ledger, job) == "running"

            worker.heart()
            until(lambda: worker.publisher.held() == (job.id,))
            worker.finish()
        far.close()

    assert is_whole(ledger, job, 30)


def test_a_job_that_cannot_be_read_does_not_keep_the_others_waiting(ledger: Ledger, raw: Any) -> None:
    broken, job = submitted(ledger), submitted(ledger)
    raw.hset(f"{{q00}}:j:{broken.id}", "body", "not a job")
    with replica(ledger) as worker:
        worker.intake.start()
        until(lambda: worker.intake._done > 0)

        worker.heart()
        until(lambda: worker.publisher.held() == (job.id,))


def test_what_is_held_is_not_told_while_a_claim_is_under_way(ledger: Ledger, raw: Any) -> None:
    with replica(ledger) as worker:
        worker.intake.start()
        until(lambda: worker.intake._done > 0)
        assert worker.intake.held() == ()
        job = submitted(ledger)

        raw.client_pause(5000, all=False)
        worker.intake.heard({"interactive": 1})
        until(lambda: worker.intake.held() is None)
        raw.client_unpause()

        until(lambda: worker.intake.held() == (job.id,))


def test_a_worker_that_closes_lets_its_ticket_go(ledger: Ledger, settings: Settings, tickets: Tickets) -> None:
    with replica(ledger, slots=1) as worker, awake(settings, worker) as waker:
        submitted(ledger)
        tickets.send("m")
        until(lambda: worker.engine.room().free == 0)
        tickets.send("m")
        until(lambda: waker._in_hand == 1)

        worker.intake.close()
        until(lambda: waker._in_hand == 0)

        submitted(ledger)
        worker.intake.heard({"interactive": 1})
        assert len(worker.publisher.held()) == 1
