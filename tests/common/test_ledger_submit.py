import dataclasses
from typing import Any

import pytest

from common.errors import InternalError, RateLimitError, StorageError
from common.identity import Principal
from common.jobs import Class, Sampling, new_id
from common.ledger.ledger import Ledger
from common.ledger.replies import Place
from common.settings import Limits
from tests.builders import OWNER, a_job
from tests.common.ledger_audit import LIMITS, Hand


def test_a_job_is_kept_as_it_was_submitted(ledger: Ledger) -> None:
    job = a_job(sampling=Sampling(5, stop=("\x1e", "ü")), max_wait_s=3.5)

    ledger.submit(job, LIMITS)

    assert ledger.job(OWNER, job.id) == job


def test_places_are_counted_from_one(ledger: Ledger) -> None:
    places = [ledger.submit(a_job(), LIMITS) for _ in range(3)]

    assert [place.position for place in places] == [1, 2, 3]


def test_nothing_is_promised_before_anything_was_measured(ledger: Ledger, hand: Hand) -> None:
    ledger.beat(hand.info(free=0, rate=100.0), {})

    place = ledger.submit(a_job(), LIMITS)

    assert place.eta_s is None


def test_a_free_slot_means_no_wait_at_all(ledger: Ledger, hand: Hand) -> None:
    ledger.beat(hand.info(free=2), {})

    etas = [ledger.submit(a_job(), LIMITS).eta_s for _ in range(3)]

    assert etas == [0.0, 0.0, None]


def measure(ledger: Ledger, hand: Hand, *, tokens: int, rate: float) -> None:
    """Five jobs of so many tokens each, by a worker that is full now."""
    for _ in range(5):
        ledger.submit(a_job(), LIMITS)
        hand.end(hand.claim(), tokens=tokens)
    ledger.beat(hand.info(free=0, rate=rate), {})


def test_the_eta_is_waiting_tokens_by_tokens_per_second(ledger: Ledger, hand: Hand) -> None:
    measure(ledger, hand, tokens=40, rate=20.0)

    places = [ledger.submit(a_job(), LIMITS) for _ in range(2)]

    assert places == [Place(1, 2.0), Place(2, 4.0)]


def test_a_place_counts_those_whose_turn_comes_before(ledger: Ledger) -> None:
    hog, user = "a" * 32, "b" * 32
    for _ in range(20):
        ledger.submit(a_job(share=hog), LIMITS)
    ledger.submit(a_job(cls="normal"), LIMITS)

    place = ledger.submit(a_job(share=user), LIMITS)

    assert place.position == 2


def test_a_place_moves_up_when_others_are_claimed(ledger: Ledger, hand: Hand) -> None:
    jobs = [a_job() for _ in range(3)]
    for job in jobs:
        ledger.submit(job, LIMITS)

    hand.claim()

    assert [ledger.place(OWNER, job.id) for job in jobs] == [None, Place(1, None), Place(2, None)]


def test_a_lower_class_waits_behind_all_of_a_higher_one(ledger: Ledger) -> None:
    low = a_job(cls="batch")
    ledger.submit(low, LIMITS)
    for _ in range(4):
        ledger.submit(a_job(), LIMITS)

    assert ledger.place(OWNER, low.id) == Place(5, None)


def test_the_same_job_again_is_the_same_job(ledger: Ledger) -> None:
    ledger.submit(a_job(), LIMITS)
    job = a_job()

    places = [ledger.submit(job, LIMITS, "f1") for _ in range(2)]

    assert places == [Place(2, None), Place(2, None)]
    assert ledger.waiting("m")["interactive"] == 2


def test_a_job_submitted_again_while_it_runs_has_no_place(ledger: Ledger, hand: Hand) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)
    hand.claim()

    assert ledger.submit(job, LIMITS) == Place(0, 0.0)


def test_another_owners_id_is_refused(ledger: Ledger) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)

    with pytest.raises(InternalError):
        ledger.submit(dataclasses.replace(job, owner="f" * 32), LIMITS)


def test_several_are_taken_in_their_order_and_each_refusal_stands_in_its_place(ledger: Ledger, hand: Hand) -> None:
    jobs = [a_job() for _ in range(5)]
    ledger.submit(jobs[3], LIMITS)
    strange = dataclasses.replace(jobs[3], owner="f" * 32)

    told = ledger.submit_each([*jobs[:2], strange, *jobs[2:]], LIMITS)

    assert [type(one) for one in told] == [type(None), type(None), InternalError, *3 * (type(None),)]
    assert ledger.waiting("m")["interactive"] == 5
    claims = [hand.claim().job.id for _ in range(5)]
    assert claims == [jobs[at].id for at in (3, 0, 1, 2, 4)]
    assert ledger.submit_each((), LIMITS) == []


def test_several_for_whom_there_is_no_room_raise_as_one_does(ledger: Ledger, raw: Any) -> None:
    before = raw.config_get("maxmemory")["maxmemory"]
    raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(StorageError) as refused:
            ledger.submit_each([a_job(), a_job()], LIMITS)
    finally:
        raw.config_set("maxmemory", before)

    assert refused.value.message == "The storage is full or not ready; try again later."
    assert ledger.submit_each([a_job(), a_job()], LIMITS) == [None, None]


def test_a_full_class_refuses_and_says_when_to_come_again(ledger: Ledger, hand: Hand) -> None:
    measure(ledger, hand, tokens=40, rate=2.0)
    ledger.submit(a_job(share="a" * 32), LIMITS)

    with pytest.raises(RateLimitError) as refused:
        ledger.submit(a_job(), Limits(waiting_class=1))

    assert (refused.value.actual_code, refused.value.retry_after_s) == ("queue_full", 40)


def test_a_class_that_one_key_has_filled_is_open_for_others(ledger: Ledger) -> None:
    limits, hog, other = Limits(waiting_class=10), "a" * 32, "b" * 32

    def taken(owner: str) -> int:
        for number in range(20):
            try:
                ledger.submit(a_job(owner=owner, share=f"{number:032x}"), limits)
            except RateLimitError:
                return number
        return 20

    assert [taken(one) for one in (hog, other, hog, "c" * 32, "d" * 32)] == [10, 5, 0, 4, 1]


def test_one_user_cannot_fill_the_queue(ledger: Ledger) -> None:
    limits = Limits(waiting_share=2)
    for _ in range(2):
        ledger.submit(a_job(), limits)

    with pytest.raises(RateLimitError, match="Too many"):
        ledger.submit(a_job(), limits)

    ledger.submit(a_job(share="a" * 32), limits)


def test_what_would_be_refused_is_told_before_it_is_read(ledger: Ledger, hand: Hand) -> None:
    measure(ledger, hand, tokens=40, rate=2.0)
    who, limits = Principal(), Limits(waiting_class=3, waiting_share=2)

    def refusal(label: str | None, cls: Class = "interactive") -> tuple[str | None, int | None] | None:
        try:
            ledger.refuse_if_full("m", cls, who, label, limits)
        except RateLimitError as refused:
            return refused.actual_code, refused.retry_after_s
        return None

    assert refusal(None) is None
    for _ in range(2):
        ledger.submit(a_job(owner=who.owner, share=who.share(None)), limits)
    assert [refusal(None), refusal("b"), refusal(None, "normal")] == [("queue_full", 60), None, None]
    ledger.submit(a_job(owner=who.owner, share=who.share("b")), limits)
    assert [refusal("b"), refusal("c"), refusal(None, "batch")] == [("queue_full", 80)] * 2 + [None]


def test_cancelled_jobs_make_room_at_once(ledger: Ledger) -> None:
    limits = Limits(waiting_share=1, waiting_class=1)
    for _ in range(3):
        job = a_job()
        ledger.submit(job, limits)
        ledger.cancel(OWNER, job.id)

    assert ledger.submit(a_job(), limits) == Place(1, None)


def test_the_waiting_limits_do_not_hold_for_batch_rows(ledger: Ledger) -> None:
    limits = Limits(waiting_share=1, waiting_class=1)

    places = [ledger.submit(a_job(cls="batch"), limits) for _ in range(3)]

    assert [place.position for place in places] == [1, 2, 3]


def test_what_cannot_start_in_time_is_refused_at_once(ledger: Ledger, hand: Hand, raw: Any) -> None:
    measure(ledger, hand, tokens=40, rate=20.0)
    job = a_job(max_wait_s=1.5)

    with pytest.raises(RateLimitError) as refused:
        ledger.submit(job, LIMITS)

    assert (refused.value.actual_code, refused.value.retry_after_s) == ("deadline_unreachable", 2)
    assert not raw.exists(f"{{q00}}:j:{job.id}")
    ledger.submit(a_job(max_wait_s=2.5), LIMITS)


def test_a_forgotten_job_is_taken_again(ledger: Ledger, raw: Any) -> None:
    job = a_job()
    ledger.submit(job, LIMITS, "f1")
    raw.flushall()
    assert ledger.watch(OWNER, job.id, "f1") is None  # and makes no ghost of it

    ledger.submit(job, LIMITS, "f1")

    assert ledger.job(OWNER, job.id) == job


def test_a_seed_and_an_id_are_not_ours_to_change(ledger: Ledger, hand: Hand) -> None:
    job = a_job(id=new_id(), seed=2**63 - 1)
    ledger.submit(job, LIMITS)

    assert hand.claim().job == job
