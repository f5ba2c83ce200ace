from typing import Any

import pytest

from common.cards import ModelCard
from common.ledger.ledger import Ledger
from common.ledger.replies import WorkerInfo
from tests.builders import a_job
from tests.common.ledger_audit import LIMITS, Hand, alter, texts

CARD = ModelCard(
    base_model="a/b",
    context=64,
    vocabulary=10,
    end_ids=(1,),
    special_ids=(1, 2),
    has_chat_template=True,
    capabilities=("chat",),
    path="row",
    dtype="float32",
    quantization=None,
    created=1,
    tokenizer_digest="0" * 64,
)


def test_a_worker_is_seen_as_it_describes_itself(ledger: Ledger) -> None:
    info = WorkerInfo("w1", "a/b", 32, 5, "draining", 12.5, {"kv_blocks": 7, "kv_blocks_used": 1.5})

    ledger.beat(info, {})

    assert ledger.workers() == (info,)


def test_a_worker_whose_beat_is_older_than_the_lease_is_not_seen(ledger: Ledger, hand: Hand, raw: Any) -> None:
    ledger.beat(hand.info(), {})
    raw.zadd("{q00}:workers", {"w1": 1.5})

    assert ledger.workers() == ()
    assert [beat.at for beat in ledger.worker_beats()] == ["1.5"]


def test_a_reaped_worker_that_beats_again_is_back(ledger: Ledger, hand: Hand) -> None:
    ledger.beat(hand.info(), {})
    ledger.reap("w1")

    ledger.beat(hand.info(), {})

    assert [info.worker for info in ledger.workers()] == ["w1"]


def test_a_beat_changes_with_every_call(ledger: Ledger, hand: Hand) -> None:
    ledger.beat(hand.info(), {})
    (before,) = ledger.worker_beats()
    while ledger.worker_beats() == (before,):  # until Redis' clock has moved by a millisecond
        ledger.beat(hand.info(), {})

    assert ledger.reap("w1", beat=before) == ()
    assert len(ledger.workers()) == 1


def test_a_beat_hears_who_waits(ledger: Ledger, hand: Hand) -> None:
    ledger.submit(a_job(cls="normal"), LIMITS)

    assert ledger.beat(hand.info(), {}).waiting == {"interactive": 0, "normal": 1, "batch": 0}


def test_counters_add_up_over_beats_and_workers(ledger: Ledger, hand: Hand) -> None:
    for name in ("w1", "w2"):
        ledger.beat(Hand(ledger, name).info(), {"steps": 2, "tokens": 0.5})
    ledger.beat(hand.info(), {"steps": 1})

    assert ledger.counters("m") == {"steps": 5.0, "tokens": 1.0}


def test_a_job_that_its_worker_does_not_know_goes_back(ledger: Ledger, hand: Hand, raw: Any) -> None:
    lost, held = a_job(), a_job()
    for job in (lost, held):
        ledger.submit(job, LIMITS)
        hand.claim()
        alter(raw, job.id, claimed="1.000")

    ledger.beat(hand.info(), {}, [held.id])

    assert ledger.waiting("m")["interactive"] == 1
    assert hand.claim().job == lost


def test_a_job_that_was_just_claimed_may_still_be_on_its_way(ledger: Ledger, hand: Hand) -> None:
    ledger.submit(a_job(), LIMITS)
    claim = hand.claim()

    ledger.beat(hand.info(), {}, [])

    assert hand.say(claim, "a").fenced == ()


def test_a_worker_that_does_not_say_what_it_holds_keeps_everything(ledger: Ledger, hand: Hand, raw: Any) -> None:
    ledger.submit(a_job(), LIMITS)
    claim = hand.claim()
    alter(raw, claim.job.id, claimed="1.000")

    ledger.beat(hand.info(), {})

    hand.say(claim, "a")
    assert texts(ledger, claim.job) == ["a"]


def test_cards_are_found_by_the_names_that_have_one(ledger: Ledger) -> None:
    ledger.put_card(CARD, b"\x00tar")

    assert ledger.cards(["a/b", "unknown"]) == {"a/b": CARD}
    assert ledger.tokenizer_files("a/b") == b"\x00tar"
    assert ledger.tokenizer_files("unknown") is None


def test_a_lease_has_one_holder_who_may_keep_it(ledger: Ledger, raw: Any) -> None:
    holders = [ledger.lease("sweep", holder, 10.0) for holder in ("a", "b", "a")]

    assert holders == [True, False, True]
    assert 0 < raw.pttl("{q00}:lease:sweep") <= 10_000


def test_a_lease_that_ran_out_is_free(ledger: Ledger, raw: Any) -> None:
    ledger.lease("sweep", "a", 10.0)
    raw.delete("{q00}:lease:sweep")  # as its time does

    assert ledger.lease("sweep", "b", 10.0)


def test_memory_is_a_part_of_what_redis_may_use(ledger: Ledger, raw: Any) -> None:
    memory = raw.info("memory")

    assert ledger.memory_fraction() == pytest.approx(memory["used_memory"] / memory["maxmemory"], rel=0.2)
