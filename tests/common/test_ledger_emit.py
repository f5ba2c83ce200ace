import dataclasses
from typing import Any

from common.errors import ExpiredError
from common.jobs import Delta, Done, Entry, Failed, Usage
from common.ledger.ledger import Ledger
from common.ledger.replies import Claim, EmitReply
from tests.builders import OWNER, a_job
from tests.common.ledger_audit import LIMITS, Hand, alter, done, failed, said, texts


def claimed(ledger: Ledger, hand: Hand, **changes: Any) -> Claim:
    ledger.submit(a_job(**changes), LIMITS)
    return hand.claim()


def test_items_are_numbered_from_one(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    hand.say(claim, "a", "b")
    hand.say(claim, "c", after=2)

    watched = ledger.read(OWNER, claim.job.id)

    assert watched is not None
    assert watched.entries == tuple(Entry(number, Delta(text, (7,))) for number, text in enumerate("abc", 1))


def test_a_step_of_many_jobs_is_one_call(ledger: Ledger, hand: Hand) -> None:
    claims = [claimed(ledger, hand) for _ in range(5)]

    reply = hand.emit(*(said(claim, claim.job.id) for claim in claims))

    assert reply == EmitReply(waiting={"interactive": 0, "normal": 0, "batch": 0})
    assert [texts(ledger, claim.job) for claim in claims] == [[claim.job.id] for claim in claims]


def test_the_same_step_again_is_accepted_and_not_repeated(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    hand.say(claim, "a", "b")

    reply = hand.say(claim, "a", "b")

    assert (reply.fenced, reply.behind, texts(ledger, claim.job)) == ((), {}, ["a", "b"])


def test_the_same_end_again_is_accepted_and_not_repeated(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    hand.end(claim)

    reply = hand.end(claim)

    assert (reply.fenced, reply.behind, texts(ledger, claim.job)) == ((), {}, ["done"])


def test_a_step_that_grew_after_a_lost_reply_is_told_what_is_stored(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    hand.say(claim, "a")

    reply = hand.say(claim, "a", "b")

    assert (reply.behind, texts(ledger, claim.job)) == ({claim.job.id: 1}, ["a"])


def test_a_shorter_log_is_healed_from_the_workers_memory(ledger: Ledger, hand: Hand, raw: Any) -> None:
    claim = claimed(ledger, hand)
    hand.say(claim, "a", "b", "c")
    raw.rpop(f"{{q00}}:t:{claim.job.id}", 2)  # an older append-only file

    reply = hand.say(claim, "d", after=3)
    hand.say(claim, "b", "c", "d", after=reply.behind[claim.job.id])

    assert (reply.behind, texts(ledger, claim.job)) == ({claim.job.id: 1}, ["a", "b", "c", "d"])


def test_nothing_is_said_after_the_end(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    hand.end(claim)

    reply = hand.say(claim, "more", after=1)

    assert (reply.fenced, texts(ledger, claim.job)) == ((claim.job.id,), ["done"])


def test_a_forgotten_job_is_gone_and_leaves_no_ghost(ledger: Ledger, hand: Hand, raw: Any) -> None:
    claim = claimed(ledger, hand)
    raw.flushall()

    reply = hand.say(claim, "a")

    assert reply.gone == (claim.job.id,)
    assert raw.keys() == []


def test_a_frozen_worker_that_wakes_up_is_fenced(ledger: Ledger, hand: Hand) -> None:
    zombie = claimed(ledger, hand)
    ledger.reap("w1")
    heir = Hand(ledger, "w2")
    heir.say(heir.claim(), "new")

    reply = hand.say(zombie, "old")

    assert (reply.fenced, texts(ledger, zombie.job)) == ((zombie.job.id,), ["new"])


def test_a_reaped_job_that_nobody_took_yet_is_fenced_too(ledger: Ledger, hand: Hand) -> None:
    zombie = claimed(ledger, hand)
    ledger.reap("w1")

    assert hand.end(zombie).fenced == (zombie.job.id,)


def test_the_right_epoch_under_another_name_is_fenced(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)

    assert Hand(ledger, "w2").say(claim, "a").fenced == (claim.job.id,)


def test_a_fenced_job_does_not_stop_the_others_of_its_step(ledger: Ledger, hand: Hand) -> None:
    good, bad = claimed(ledger, hand), claimed(ledger, hand)

    reply = hand.emit(said(dataclasses.replace(bad, epoch=9), "x", "y"), said(good, "a"))

    assert (reply.fenced, texts(ledger, good.job)) == ((bad.job.id,), ["a"])


def test_the_end_expires_record_and_log_together(ledger: Ledger, hand: Hand, raw: Any) -> None:
    claim = claimed(ledger, hand, keep_s=77)

    hand.say(claim, "a")
    hand.end(claim, after=1)

    assert [raw.ttl(f"{{q00}}:{kind}:{claim.job.id}") for kind in "jt"] == [77, 77]


def test_each_end_is_the_state_it_says(ledger: Ledger, hand: Hand) -> None:
    good, bad = claimed(ledger, hand), claimed(ledger, hand)

    hand.emit(done(good), failed(bad, Failed.of(ExpiredError("Late.")), "expired"))

    states = [watched.state for job in (good, bad) if (watched := ledger.read(OWNER, job.job.id))]
    assert states == ["done", "expired"]


def test_replies_say_how_many_wait(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    ledger.submit(a_job(), LIMITS)
    ledger.submit(a_job(cls="batch"), LIMITS)

    assert hand.say(claim, "a").waiting == {"interactive": 1, "normal": 0, "batch": 1}


def test_a_cancelled_job_is_named_until_its_worker_ends_it(ledger: Ledger, hand: Hand) -> None:
    claim, other = claimed(ledger, hand), claimed(ledger, hand)
    ledger.cancel(OWNER, claim.job.id)

    before = [hand.say(other, "a", after=at).cancelled for at in range(2)]
    hand.end(claim)
    after = hand.say(other, "a", after=2).cancelled

    assert (before, after) == ([(claim.job.id,)] * 2, ())


def test_a_job_past_its_end_is_named_as_expired(ledger: Ledger, hand: Hand, raw: Any) -> None:
    claim = claimed(ledger, hand)
    alter(raw, claim.job.id, end_at="1.000")

    reply = hand.say(claim, "a")

    assert (reply.cancelled, reply.expired) == ((), (claim.job.id,))


def test_thousands_of_items_go_through_in_one_step(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)

    hand.say(claim, *map(str, range(9000)))

    watched = ledger.read(OWNER, claim.job.id, 8999)
    assert watched is not None
    assert (watched.seq, watched.entries) == (9000, (Entry(9000, Delta("8999", (7,))),))


def test_text_comes_back_as_it_went_in(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    odd = '\x00\x1e\x1f\n"\\ ü 漢 🎉 ]==]'

    hand.say(claim, odd)

    assert texts(ledger, claim.job) == [odd]


def test_the_last_item_carries_the_usage(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    hand.end(claim, tokens=5)

    watched = ledger.read(OWNER, claim.job.id)

    assert watched is not None
    assert watched.entries == (Entry(1, Done(Usage(3, 5))),)


def test_a_jobs_tokens_are_known_while_it_runs_and_stay_when_its_worker_is_lost(ledger: Ledger, hand: Hand) -> None:
    claim = claimed(ledger, hand)
    known = [_tokens(ledger, claim)]
    hand.say(claim, "a", "b")
    known.append(_tokens(ledger, claim))
    ledger.reap("w1")
    known.append(_tokens(ledger, claim))
    heir = Hand(ledger, "w2")
    again = heir.claim()
    known.append(_tokens(ledger, claim))
    heir.say(again, "c", after=2)
    ledger.reap("w2", [claim.job.id])
    known.append(_tokens(ledger, claim))

    assert known == [0, 2, 2, 2, 3]


def _tokens(ledger: Ledger, claim: Claim) -> int:
    record = ledger.record(OWNER, claim.job.id)
    assert record is not None
    return record.tokens
