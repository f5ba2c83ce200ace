import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from common.ledger.bell import Bell
from common.ledger.ledger import Ledger
from common.ledger.replies import Beat, Ring
from tests.builders import OWNER, a_job
from tests.common.ledger_audit import LIMITS, Hand, item, said, texts

STRANGER = "f" * 32
Listen = Callable[[str], Bell]


@pytest.fixture
def listen(ledger: Ledger) -> Iterator[Listen]:
    """Front ends that hear their rings."""
    bells: list[Bell] = []

    def listen(front_end: str) -> Bell:
        (bell,) = ledger.bells(front_end)
        bells.append(bell)
        bell.subscribe()
        return bell

    yield listen
    for bell in bells:
        bell.close()


def test_a_stranger_can_neither_read_nor_cancel_a_job(ledger: Ledger, hand: Hand) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)

    assert ledger.job(STRANGER, job.id) is None
    assert ledger.watch(STRANGER, job.id, "f1") is None
    assert ledger.read(STRANGER, job.id) is None
    assert ledger.place(STRANGER, job.id) is None
    assert ledger.cancel(STRANGER, job.id) is None
    assert hand.claim().job == job


def test_watching_what_is_not_here_makes_no_ghost(ledger: Ledger, raw: Any) -> None:
    assert ledger.watch(OWNER, a_job().id, "f1") is None
    assert raw.keys() == []


def test_the_log_is_read_from_any_number_on(ledger: Ledger, hand: Hand) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)
    hand.say(hand.claim(), "a", "b", "c", "d")

    watched = ledger.watch(OWNER, job.id, "f1", 1, 2)

    assert watched is not None
    assert [entry.seq for entry in watched.entries] == [2, 3]
    assert (watched.state, watched.seq, watched.epoch, watched.worker) == ("running", 4, 1, "w1")


def test_the_submitting_front_end_hears_everything(ledger: Ledger, hand: Hand, listen: Listen) -> None:
    bell = listen("f1")
    job = a_job()
    ledger.submit(job, LIMITS, "f1")
    claim = hand.claim()

    hand.say(claim, "a", "b")
    hand.end(claim, after=2)

    first, last = bell.listen(2.0), bell.listen(2.0)
    watched = ledger.read(OWNER, job.id)
    assert watched is not None
    assert first == [Ring(job.id, 1, False, (item("a", 1).encode(), item("b", 2).encode()), watched.claim)]
    assert last is not None
    assert [(ring.first, ring.ended) for ring in last] == [(3, True)]


def test_rings_and_log_say_which_claim_speaks_and_where_it_began(
    ledger: Ledger, hand: Hand, raw: Any, listen: Listen
) -> None:
    bell = listen("f1")
    job = a_job()
    ledger.submit(job, LIMITS, "f1")
    hand.say(hand.claim(), "a", "b")
    first = ledger.read(OWNER, job.id)
    ledger.reap("w1")
    raw.hset(f"{{q00}}:j:{job.id}", "claimed", "1.000")  # the next may come within the same millisecond
    heir = Hand(ledger, "w2")
    heir.say(heir.claim(), "c", after=2)
    second = ledger.read(OWNER, job.id)

    rings = [*(bell.listen(2.0) or ()), *(bell.listen(2.0) or ())]

    assert first is not None
    assert second is not None
    assert (first.claim_seq, second.claim_seq) == (0, 2)
    assert [ring.claim for ring in rings] == [first.claim, second.claim]
    assert first.claim != second.claim


def test_a_job_that_waits_for_its_first_claim_names_none(ledger: Ledger) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)

    watched = ledger.read(OWNER, job.id)

    assert watched is not None
    assert (watched.claim, watched.claim_seq) == ("", 0)


def test_an_end_from_outside_rings_under_the_claim_before_it(ledger: Ledger, hand: Hand, listen: Listen) -> None:
    bell = listen("f1")
    jobs = [a_job(), a_job()]
    for job in jobs:
        ledger.submit(job, LIMITS, "f1")
    hand.say(hand.claim(), "a")
    said = ledger.read(OWNER, jobs[0].id)
    ledger.reap("w1")
    for job in jobs:
        ledger.cancel(OWNER, job.id)

    rings = [ring for _ in range(3) for ring in bell.listen(2.0) or ()]

    assert said is not None
    assert [ring.claim for ring in rings] == [said.claim, said.claim, ""]


def test_one_step_is_one_message_for_each_watching_front_end(ledger: Ledger, hand: Hand, listen: Listen) -> None:
    bells = [listen("f1"), listen("f2")]
    jobs = [a_job() for _ in range(6)]
    for number, job in enumerate(jobs):
        ledger.submit(job, LIMITS, f"f{number % 2 + 1}")
    ledger.watch(OWNER, jobs[0].id, "f2")
    claims = [hand.claim() for _ in jobs]

    hand.emit(*(said(claim, "a") for claim in claims))

    heard = [{ring.job_id for ring in bell.listen(2.0) or ()} for bell in bells]
    assert heard == [{jobs[0].id, jobs[2].id, jobs[4].id}, {jobs[0].id, jobs[1].id, jobs[3].id, jobs[5].id}]
    assert [bell.listen(0.1) for bell in bells] == [None, None]


def test_watching_twice_is_heard_once(ledger: Ledger, hand: Hand, listen: Listen) -> None:
    bell = listen("f1")
    job = a_job()
    ledger.submit(job, LIMITS, "f1")
    ledger.watch(OWNER, job.id, "f1")

    hand.say(hand.claim(), "a")

    assert len(bell.listen(2.0) or ()) == 1
    assert bell.listen(0.1) is None


def test_a_fifth_front_end_reads_the_log(ledger: Ledger) -> None:
    job = a_job()
    ledger.submit(job, LIMITS, "f0")

    watched = [ledger.watch(OWNER, job.id, f"f{number}") for number in range(6)]

    assert [one.is_heard for one in watched if one] == [True, True, True, True, False, False]


def test_who_stopped_watching_hears_nothing(ledger: Ledger, hand: Hand, listen: Listen) -> None:
    bell = listen("f1")
    job = a_job()
    ledger.submit(job, LIMITS, "f1")

    ledger.unwatch(job.id, "f1")
    hand.say(hand.claim(), "a")

    assert bell.listen(0.1) is None


def test_reading_and_finished_jobs_register_nobody(ledger: Ledger, hand: Hand, raw: Any) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)
    ledger.read(OWNER, job.id)
    hand.end(hand.claim())

    watched = ledger.watch(OWNER, job.id, "f1")

    assert watched is not None
    assert (watched.is_heard, watched.state) == (False, "done")
    assert not raw.exists("{q00}:fw:f1")


def test_an_end_from_outside_is_heard_too(ledger: Ledger, listen: Listen) -> None:
    bell = listen("f1")
    job = a_job()
    ledger.submit(job, LIMITS, "f1")

    ledger.cancel(OWNER, job.id)

    rings = bell.listen(2.0)
    assert rings is not None
    assert [(ring.job_id, ring.first, ring.ended) for ring in rings] == [(job.id, 1, True)]


def test_subscribed_means_heard_from_this_moment(ledger: Ledger, hand: Hand) -> None:
    job = a_job()
    ledger.submit(job, LIMITS, "f1")
    claim = hand.claim()
    (bell,) = ledger.bells("f1")

    with closing(bell):
        for number in range(20):
            bell.subscribe()
            hand.say(claim, "a", after=number)

            assert len(bell.listen(2.0) or ()) == 1


def test_who_begins_to_wait_above_the_lowest_class_rings_for_the_models_workers(ledger: Ledger, hand: Hand) -> None:
    (bell,) = ledger.arrivals("m")
    with closing(bell):
        bell.subscribe()
        jobs = [a_job(cls=cls) for cls in ("batch", "normal")]
        for job in jobs:
            ledger.submit(job, LIMITS)
        claim = hand.claim("normal")
        ledger.release("w1", [(claim.job.id, claim.epoch, 0)])

        heard = [bell.listen(2.0) for _ in range(2)]

        assert heard == [[Ring(jobs[1].id, 0, False, (b"normal",))]] * 2
        assert bell.listen(0.1) is None


def test_a_cut_line_is_an_error_not_a_silence(raw: Any, listen: Listen) -> None:
    bell = listen("f1")

    raw.client_kill_filter(_type="pubsub")

    with pytest.raises(redis.RedisError):
        listen_often(bell, 0.2)
    bell.subscribe()
    raw.publish("fe:f1", "j\x1fc\x1f1\x1f0\x1fa")
    assert bell.listen(2.0) == [Ring("j", 1, False, (b"a",), "c")]


def test_a_line_whose_pings_stay_unanswered_is_an_error(raw: Any, listen: Listen) -> None:
    bell = listen("f1")
    bell._pubsub.connection.next_health_check = 0  # it was silent for long

    raw.execute_command("CLIENT", "PAUSE", 500, "ALL")

    with pytest.raises(redis.TimeoutError):
        listen_often(bell, 0.01)


def test_a_redis_that_hangs_is_not_waited_for_at_its_door() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes what is sent
        far = Ledger((f"redis://:secret@127.0.0.1:{silent.getsockname()[1]}/0",))
        (bell,) = far.bells("f1")

        with closing(far), closing(bell), pytest.raises(redis.TimeoutError):
            bell.subscribe()


def listen_often(bell: Bell, timeout_s: float) -> None:
    for _ in range(20):
        bell.listen(timeout_s)


def test_an_unwatched_job_ends_after_a_while(ledger: Ledger, hand: Hand) -> None:
    waiting, running = a_job(), a_job()
    for job in (running, waiting):
        ledger.submit(job, LIMITS, "f1")
    hand.claim()
    for job in (running, waiting):
        ledger.unwatch(job.id, "f1")

    ledger.sweep()
    before = [texts(ledger, job) for job in (running, waiting)]
    ledger.sweep(unwatched_s=0.0)

    assert before == [[], []]
    assert texts(ledger, waiting) == ["failed"]
    assert ledger.beat(hand.info(), {}).cancelled == (running.id,)


def test_a_job_that_is_watched_again_goes_on(ledger: Ledger, hand: Hand) -> None:
    job = a_job()
    ledger.submit(job, LIMITS, "f1")
    ledger.unwatch(job.id, "f1")
    ledger.watch(OWNER, job.id, "f2")

    ledger.sweep(unwatched_s=0.0)

    assert hand.claim().job == job


def test_a_job_that_is_to_finish_needs_no_watcher(ledger: Ledger, hand: Hand) -> None:
    job = a_job(on_disconnect="finish")
    ledger.submit(job, LIMITS, "f1")
    ledger.unwatch(job.id, "f1")

    ledger.sweep(unwatched_s=0.0)

    assert hand.claim().job == job


def test_one_of_two_watchers_is_enough(ledger: Ledger, hand: Hand) -> None:
    job = a_job()
    ledger.submit(job, LIMITS, "f1")
    ledger.watch(OWNER, job.id, "f2")
    ledger.unwatch(job.id, "f1")

    ledger.sweep(unwatched_s=0.0)

    assert hand.claim().job == job


def beat_of(ledger: Ledger, front_end: str) -> Beat:
    """Others may beat into the same server."""
    return next(beat for beat in ledger.front_end_beats() if beat.who == front_end)


def test_a_silent_front_end_is_forgotten_with_all_it_watched(ledger: Ledger) -> None:
    job = a_job()
    ledger.submit(job, LIMITS, "f1")

    ledger.clear_front_end(beat_of(ledger, "f1"))
    ledger.sweep(unwatched_s=0.0)

    assert "f1" not in [beat.who for beat in ledger.front_end_beats()]
    assert texts(ledger, job) == ["failed"]


def test_a_job_was_left_when_its_front_end_fell_silent_not_when_that_was_noticed(ledger: Ledger, raw: Any) -> None:
    job, shared = a_job(), a_job()
    for one in (job, shared):
        ledger.submit(one, LIMITS, "f1")
    ledger.watch(OWNER, shared.id, "f2")
    ledger.unwatch(shared.id, "f2")  # later than the other's last beat
    raw.zincrby("{q00}:fes", -31, "f1")
    ledger.clear_front_end(beat_of(ledger, "f1"))

    ledger.sweep()
    before = [texts(ledger, one) for one in (job, shared)]
    ledger.sweep(unwatched_s=0.0)

    assert before == [["failed"], []]
    assert texts(ledger, shared) == ["failed"]


def test_a_front_end_that_beat_meanwhile_is_not_forgotten(ledger: Ledger, raw: Any) -> None:
    raw.zadd("{q00}:fes", {"f1": 1.5})
    beat = beat_of(ledger, "f1")
    ledger.beat_front_end("f1")

    ledger.clear_front_end(beat)

    assert beat_of(ledger, "f1") != beat
