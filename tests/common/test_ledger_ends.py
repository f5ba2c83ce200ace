from typing import Any

import pytest

from common.jobs import Entry, Failed
from common.ledger import keys, wire
from common.ledger.ledger import Ledger
from common.ledger.replies import Beat, Claim
from tests.builders import OWNER, a_job
from tests.common.ledger_audit import LIMITS, Hand, alter, failed, said, texts


def claimed(ledger: Ledger, hand: Hand, **changes: Any) -> Claim:
    ledger.submit(a_job(**changes), LIMITS)
    return hand.claim()


def the_end(ledger: Ledger, job_id: str) -> tuple[str, Entry]:
    watched = ledger.read(OWNER, job_id)
    assert watched is not None
    return watched.state, watched.entries[-1]


# cancel ------------------------------------------------------------------------------------------------------------
def test_a_waiting_job_is_cancelled_at_once(ledger: Ledger, hand: Hand) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)

    assert ledger.cancel(OWNER, job.id) == "cancelled"
    assert the_end(ledger, job.id) == ("cancelled", Entry(1, wire.CANCELLED))
    assert not hand.finds()


def test_a_running_job_is_cancelled_by_its_worker(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)

    state = ledger.cancel(OWNER, claim.job.id)
    told = ledger.beat(hand.info(), {}).cancelled
    hand.emit(failed(claim, wire.CANCELLED, "cancelled"))

    assert (state, told) == ("running", (claim.job.id,))
    assert the_end(ledger, claim.job.id) == ("cancelled", Entry(1, wire.CANCELLED))
    assert ledger.beat(hand.info(), {}).cancelled == ()


def test_a_cancel_holds_although_the_worker_was_done_before_it_heard(ledger: Ledger, hand: Hand) -> None:
    (bell,) = ledger.bells("f1")
    bell.subscribe()
    claim = claimed(ledger, hand)
    ledger.watch(OWNER, claim.job.id, "f1")
    ledger.cancel(OWNER, claim.job.id)

    replies = [hand.end(claim, tokens=1) for _ in range(2)]  # the second time because a reply was lost

    assert the_end(ledger, claim.job.id) == ("cancelled", Entry(1, wire.CANCELLED))
    assert [(reply.fenced, reply.cancelled) for reply in replies] == [((), ()), ((), ())]
    assert [ring.items for ring in bell.listen(2.0) or ()] == [(wire.CANCELLED.encode().encode(),)]
    bell.close()


def test_cancelling_an_ended_job_changes_nothing(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    hand.end(claim)

    assert ledger.cancel(OWNER, claim.job.id) == "done"
    assert texts(ledger, claim.job) == ["done"]


def test_a_cancelled_job_ends_with_its_dead_worker(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    ledger.cancel(OWNER, claim.job.id)

    ledger.reap("w1")

    assert the_end(ledger, claim.job.id) == ("cancelled", Entry(1, wire.CANCELLED))


# reap --------------------------------------------------------------------------------------------------------------
def test_a_dead_workers_jobs_go_back_before_all_others_of_their_share(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    ledger.submit(a_job(), LIMITS)

    assert ledger.reap("w1") == (claim.job.id,)
    assert ledger.waiting("m")["interactive"] == 2
    assert Hand(ledger, "w2").claim().job == claim.job


def test_reaping_twice_gives_back_once(ledger: Ledger, hand: Hand) -> None:
    claimed(ledger, hand)
    ledger.reap("w1")

    assert ledger.reap("w1") == ()
    assert ledger.waiting("m")["interactive"] == 1


def test_reaping_does_not_charge_again(ledger: Ledger, hand: Hand, raw: Any) -> None:
    claim = claimed(ledger, hand)
    before = raw.zscore("{q00}:sc:m", OWNER)

    ledger.reap("w1")
    hand.claim()

    assert (raw.zscore("{q00}:sc:m", OWNER), before) == (claim.job.cost, claim.job.cost)


def test_a_worker_that_beat_meanwhile_is_not_reaped(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)

    assert ledger.reap("w1", beat=Beat("w1", "1.5")) == ()
    assert hand.say(claim, "a").fenced == ()


def test_a_worker_whose_beat_stands_still_is_reaped(ledger: Ledger, hand: Hand) -> None:
    ledger.beat(hand.info(), {})
    claim = claimed(ledger, hand)
    (beat,) = ledger.worker_beats()

    assert ledger.reap("w1", beat=beat) == (claim.job.id,)
    assert ledger.worker_beats() == ()
    assert ledger.workers() == ()


def test_a_claim_that_arrives_after_the_reaping_is_found_again(ledger: Ledger, hand: Hand) -> None:
    ledger.submit(a_job(), LIMITS)
    ledger.reap("w1")
    late = hand.claim()

    (beat,) = ledger.worker_beats()

    assert ledger.reap("w1", beat=beat) == (late.job.id,)


def test_a_job_that_stops_three_workers_before_its_first_word_is_given_up(ledger: Ledger, hand: Hand) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)
    attempts = []
    for _ in range(3):
        attempts.append(hand.claim().attempts)
        ledger.reap("w1", [job.id])

    assert attempts == [0, 1, 2]
    assert the_end(ledger, job.id) == ("failed", Entry(1, wire.POISON))


def test_a_job_that_gets_on_is_never_given_up(ledger: Ledger, hand: Hand) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)
    for at in range(6):
        hand.say(hand.claim(), "a", after=at)
        ledger.reap("w1", [job.id])

    assert hand.claim().attempts == 1


def test_a_job_beside_the_hot_one_is_not_charged(ledger: Ledger, hand: Hand) -> None:
    beside, hot = a_job(), a_job()
    for job in (beside, hot):
        ledger.submit(job, LIMITS)
    for _ in range(3):
        hand.claim()
        if ledger.waiting("m")["interactive"]:
            hand.claim()
        ledger.reap("w1", [hot.id])

    assert texts(ledger, hot) == ["failed"]
    assert hand.claim().attempts == 0


# release -----------------------------------------------------------------------------------------------------------
def test_a_released_job_goes_on_elsewhere_with_its_words(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    hand.say(claim, "a")

    ledger.release("w1", [(claim.job.id, claim.epoch, 0)])

    again = Hand(ledger, "w2").claim()
    assert ([delta.text for delta in again.said], again.attempts) == (["a"], 0)
    assert hand.say(claim, "b", after=1).fenced == (claim.job.id,)


def test_only_the_holder_of_the_right_epoch_can_release(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)

    ledger.release("w2", [(claim.job.id, claim.epoch, 0)])
    ledger.release("w1", [(claim.job.id, claim.epoch + 1, 0)])

    assert hand.say(claim, "a").fenced == ()


def test_a_cancelled_job_is_ended_by_release(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    ledger.cancel(OWNER, claim.job.id)

    ledger.release("w1", [(claim.job.id, claim.epoch, 0)])

    assert the_end(ledger, claim.job.id)[0] == "cancelled"


# its time ----------------------------------------------------------------------------------------------------------
def _claimed_ago(raw: Any, claim: Claim, seconds: float, *, silent_s: float = 0) -> None:
    """As if the claim were so much older; its worker was silent at the end of that."""
    now = float(raw.hget(keys.job("{q00}", claim.job.id), "claimed"))
    raw.hset(keys.job("{q00}", claim.job.id), "claimed", now - seconds)
    raw.zadd(keys.workers("{q00}"), {"w1": now - silent_s})


def test_a_later_claim_says_how_long_was_generated(ledger: Ledger, hand: Hand, raw: Any) -> None:
    ledger.submit(a_job(), LIMITS)
    claim = hand.claim()
    assert claim.since_s == 0
    hand.say(claim, "a")
    _claimed_ago(raw, claim, 100)

    ledger.release("w1", [(claim.job.id, claim.epoch, 7.25)])
    claim = hand.claim()
    assert claim.since_s == 7.25
    hand.say(claim, "b", after=1)
    _claimed_ago(raw, claim, 100)
    ledger.reap("w1")

    assert Hand(ledger, "w2").claim().since_s == pytest.approx(107.25)


def test_the_time_of_a_claim_that_said_nothing_does_not_count(ledger: Ledger, hand: Hand, raw: Any) -> None:
    ledger.submit(a_job(), LIMITS)
    hand.say(claim := hand.claim(), "a")
    ledger.release("w1", [(claim.job.id, claim.epoch, 7.25)])

    _claimed_ago(raw, hand.claim(), 100)
    ledger.reap("w1")
    claim = hand.claim()
    assert claim.since_s == 7.25

    _claimed_ago(raw, claim, 100)
    ledger.beat(hand.info(), {}, [])
    assert hand.claim().since_s == 7.25


def test_the_time_without_anybody_who_reaps_does_not_count(ledger: Ledger, hand: Hand, raw: Any) -> None:
    ledger.submit(a_job(), LIMITS)
    claim = hand.claim()
    hand.say(claim, "a")
    _claimed_ago(raw, claim, 3600, silent_s=3595)

    ledger.reap("w1")

    assert hand.claim().since_s == pytest.approx(5)


# deadlines ---------------------------------------------------------------------------------------------------------
def test_a_waiting_job_past_its_end_is_not_claimed_but_ended(ledger: Ledger, hand: Hand) -> None:
    job = a_job(end_s=0)
    ledger.submit(job, LIMITS)

    assert not hand.finds()
    assert the_end(ledger, job.id) == ("expired", Entry(1, wire.EXPIRED))


def test_a_waiting_job_past_its_end_is_ended_without_any_worker(ledger: Ledger) -> None:
    jobs = [a_job(end_s=0) for _ in range(130)]
    for job in jobs:
        ledger.submit(job, LIMITS)

    ledger.sweep()

    assert {the_end(ledger, job.id)[0] for job in jobs} == {"expired"}


def test_a_job_that_did_not_start_in_time_ends(ledger: Ledger) -> None:
    job = a_job(max_wait_s=0.0)
    ledger.submit(job, LIMITS)

    ledger.sweep()

    assert the_end(ledger, job.id)[0] == "expired"


def test_a_job_that_started_in_time_may_wait_again(ledger: Ledger, hand: Hand, raw: Any) -> None:
    claim = claimed(ledger, hand, max_wait_s=60.0)
    raw.hset(f"{{q00}}:j:{claim.job.id}", "wait_at", "1.000")
    ledger.reap("w1")

    ledger.sweep()

    assert hand.claim().job == claim.job


def test_a_running_job_past_its_end_is_named_to_its_worker(ledger: Ledger, hand: Hand, raw: Any) -> None:
    claim = claimed(ledger, hand)
    let_end(raw, claim)

    ledger.sweep()

    assert ledger.beat(hand.info(), {}).expired == (claim.job.id,)


def test_a_running_job_past_its_end_that_nobody_ends_is_ended(ledger: Ledger, hand: Hand, raw: Any) -> None:
    claim = claimed(ledger, hand)
    let_end(raw, claim)

    ledger.sweep(grace_s=0.0)

    assert the_end(ledger, claim.job.id) == ("expired", Entry(1, wire.EXPIRED))
    assert hand.emit(said(claim, "a", after=1)).fenced == (claim.job.id,)


def test_a_reaped_job_past_its_end_is_ended(ledger: Ledger, hand: Hand, raw: Any) -> None:
    claim = claimed(ledger, hand)
    let_end(raw, claim)

    ledger.reap("w1")

    assert the_end(ledger, claim.job.id) == ("expired", Entry(1, wire.EXPIRED))


def let_end(raw: Any, claim: Claim) -> None:
    """Its latest end was a moment ago."""
    seconds, micros = raw.time()
    at = f"{seconds + micros / 1e6 - 0.01:.3f}"
    alter(raw, claim.job.id, end_at=at)
    raw.zadd("{q00}:dl", {claim.job.id: at})


def test_failed_items_read_as_errors_do() -> None:
    kinds = [(end.status, end.type, end.code) for end in (wire.CANCELLED, wire.EXPIRED, wire.POISON)]

    assert kinds == [
        (409, "invalid_request_error", "cancelled"),
        (410, "invalid_request_error", "expired"),
        (500, "api_error", "poison"),
    ]
    assert isinstance(wire.POISON, Failed)


def test_an_end_is_told_to_the_parent_and_takes_the_blobs_along(ledger: Ledger, hand: Hand, raw: Any) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)
    raw.hset(f"{{q00}}:j:{job.id}", mapping={"parent": "batch", "nblobs": 1})
    raw.set(f"{{q00}}:b:{job.id}:1", "large")
    hand.claim()

    ledger.cancel(job.owner, job.id)
    ledger.reap("w1")

    assert raw.lrange("{q00}:ended:batch", 0, -1) == [job.id]
    assert 0 < raw.ttl(f"{{q00}}:b:{job.id}:1") <= job.keep_s
    raw.delete("{q00}:ended:batch")
