from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from common.jobs import CLASSES, Sampling
from common.ledger import keys
from common.ledger.ledger import Ledger
from tests.builders import OWNER, a_job
from tests.common.ledger_audit import LIMITS, Hand, texts

Who = Callable[[str], dict[str, str]]


def share(letter: str) -> str:
    return letter * 32


def a_label(letter: str) -> dict[str, str]:
    """One of a key's users."""
    return {"share": share(letter)}


def a_key(letter: str) -> dict[str, str]:
    """One without labels."""
    return {"owner": share(letter), "share": share(letter)}


@pytest.fixture(params=[a_label, a_key])
def who(request: pytest.FixtureRequest) -> Who:
    """What is fair among keys is fair among the users of one."""
    found: Who = request.param
    return found


def test_an_empty_queue_gives_nothing(hand: Hand) -> None:
    assert not hand.finds()


def test_jobs_of_one_share_are_claimed_in_their_order(ledger: Ledger, hand: Hand) -> None:
    jobs = [a_job() for _ in range(4)]
    for job in jobs:
        ledger.submit(job, LIMITS)

    assert [hand.claim().job for _ in jobs] == jobs


def test_a_claim_has_a_new_epoch_and_takes_the_job_off_the_queue(ledger: Ledger, hand: Hand) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)

    claim = hand.claim()

    assert (claim.job, claim.epoch, claim.attempts, claim.seq, claim.said) == (job, 1, 0, 0, ())
    assert ledger.waiting("m") == {"interactive": 0, "normal": 0, "batch": 0}


def test_a_step_finds_its_jobs_without_a_search(ledger: Ledger, hand: Hand, raw: Any) -> None:
    ledger.submit(a_job(), LIMITS)
    hand.claim()

    assert raw.object("encoding", keys.held(keys.tag(0), hand.name)) == "hashtable"


def test_a_priority_job_goes_to_the_head_of_its_own_list(ledger: Ledger, hand: Hand) -> None:
    plain, urgent = a_job(), a_job(priority=True)
    ledger.submit(plain, LIMITS)
    ledger.submit(urgent, LIMITS)

    assert [hand.claim().job for _ in range(2)] == [urgent, plain]


def test_classes_are_claimed_in_their_order(ledger: Ledger, hand: Hand) -> None:
    for cls in reversed(CLASSES):
        ledger.submit(a_job(cls=cls), LIMITS)

    assert [hand.claim().job.cls for _ in CLASSES] == list(CLASSES)


def test_only_the_asked_classes_are_claimed(ledger: Ledger, hand: Hand) -> None:
    ledger.submit(a_job(cls="batch"), LIMITS)

    assert not hand.finds("interactive", "normal")


def test_a_worker_claims_only_for_its_model(ledger: Ledger) -> None:
    ledger.submit(a_job(), LIMITS)

    assert not Hand(ledger, model="another").finds()


def test_a_hog_with_300_waiting_jobs_takes_no_more_than_its_share(ledger: Ledger, hand: Hand, who: Who) -> None:
    for letter, count in (("a", 300), ("b", 20), ("c", 20), ("d", 20)):
        for _ in range(count):
            ledger.submit(a_job(**who(letter)), LIMITS)

    claims = [hand.claim() for _ in range(80)]

    assert Counter(claim.job.share[0] for claim in claims) == {"a": 20, "b": 20, "c": 20, "d": 20}


def test_turns_are_counted_in_tokens_not_in_jobs(ledger: Ledger, hand: Hand, who: Who) -> None:
    for _ in range(20):
        ledger.submit(a_job(**who("a"), sampling=Sampling(97)), LIMITS)  # costs 100 each
        ledger.submit(a_job(**who("b"), sampling=Sampling(22)), LIMITS)  # costs 25 each

    claims = [hand.claim() for _ in range(20)]

    assert Counter(claim.job.share[0] for claim in claims) == {"a": 4, "b": 16}


def test_a_share_of_twice_the_weight_gets_twice_the_tokens(ledger: Ledger, hand: Hand, who: Who) -> None:
    for letter, weight in (("a", 2.0), ("b", 1.0), ("c", 0.5)):
        for _ in range(40):
            ledger.submit(a_job(**who(letter), weight=weight), LIMITS)

    claims = [hand.claim() for _ in range(42)]
    for claim in claims:
        hand.end(claim, tokens=1)  # what is given back is weighed as well

    assert Counter(claim.job.share[0] for claim in claims) == {"a": 24, "b": 12, "c": 6}
    later = Counter(hand.claim().job.share[0] for _ in range(21))
    assert {letter: later[letter] for letter in "abc"} == {"a": 12, "b": 6, "c": 3}


def test_a_keys_labels_divide_its_turns(ledger: Ledger, hand: Hand) -> None:
    labels = [f"{number:032x}" for number in range(1, 31)]
    for label in labels:
        ledger.submit(a_job(share=label), LIMITS)
    for _ in range(30):
        ledger.submit(a_job(**a_key("a")), LIMITS)

    claims = [hand.claim().job for _ in range(40)]

    assert Counter(job.owner[0] for job in claims) == {"a": 20, "0": 20}
    assert [job.share for job in claims if job.owner[0] == "0"] == labels[:20]


def test_labels_that_were_never_seen_do_not_hold_others_up(ledger: Ledger, hand: Hand) -> None:
    for _ in range(10):
        ledger.submit(a_job(**a_key("a")), LIMITS)
        ledger.submit(a_job(**a_key("b")), LIMITS)
    for _ in range(8):
        hand.claim()

    owners = []
    for number in range(9):
        ledger.submit(a_job(owner=share("b"), share=f"{number:032x}"), LIMITS)
        owners.append(hand.claim().job.owner[0])

    assert 4 <= owners.count("a") <= 5


def test_somebody_new_each_time_does_not_hold_up_for_ever_who_was_here(ledger: Ledger, hand: Hand) -> None:
    ledger.submit(a_job(**a_label("a"), sampling=Sampling(97)), LIMITS)
    hand.end(hand.claim(), tokens=97)
    ledger.submit(a_job(**a_label("a")), LIMITS)
    ledger.submit(a_job(share=f"{0:032x}"), LIMITS)

    for number in range(1, 200):
        ledger.submit(a_job(share=f"{number:032x}"), LIMITS)
        claim = hand.claim()
        hand.end(claim, tokens=10)
        if claim.job.share == share("a"):
            break

    assert number < 150


def test_a_batch_that_waits_keeps_no_time_for_those_who_come_new(ledger: Ledger, hand: Hand) -> None:
    ledger.submit(a_job(**a_key("b"), cls="batch"), LIMITS)
    for _ in range(9):
        ledger.submit(a_job(**a_key("a")), LIMITS)
        hand.claim()
    for _ in range(4):
        ledger.submit(a_job(**a_key("a")), LIMITS)
        ledger.submit(a_job(**a_key("c")), LIMITS)

    owners = [hand.claim("interactive").job.owner[0] for _ in range(4)]

    assert Counter(owners) == {"a": 2, "c": 2}


def test_who_is_next_hears_so_among_hundreds_who_were_served(ledger: Ledger, hand: Hand, who: Who) -> None:
    ledger.submit(a_job(**who("a")), LIMITS)
    for number in range(300):
        one = who("a") | dict.fromkeys(set(who("a")), f"{number:032x}")
        ledger.submit(a_job(**one), LIMITS)
        hand.claim("interactive")
        ledger.submit(a_job(**one), LIMITS)

    assert ledger.submit(a_job(**who("f")), LIMITS).position <= 2


def test_a_place_among_hundreds_is_no_smaller_than_it_is(ledger: Ledger, who: Who) -> None:
    for number in range(300):
        one = f"{number:032x}"
        ledger.submit(a_job(**who("a") | dict.fromkeys(set(who("a")), one)), LIMITS)

    assert ledger.submit(a_job(**who("f")), LIMITS).position == 301


def test_idle_scores_are_forgotten_once_time_has_passed_them(ledger: Ledger, hand: Hand, raw: Any, who: Who) -> None:
    for letter in "ab":
        ledger.submit(a_job(**who(letter)), LIMITS)
    for _ in range(2):
        hand.end(hand.claim(), tokens=10)
    for _ in range(3):
        ledger.submit(a_job(**who("c")), LIMITS)
        hand.claim()

    line = "{q00}:sc:m" if "owner" in who("c") else f"{{q00}}:sc:m:{OWNER}"
    assert set(raw.zrange(line, 0, -1)) == {share("c"), "vt"}


def test_what_was_not_generated_is_given_back(ledger: Ledger, hand: Hand, who: Who) -> None:
    for letter in "ab":
        for _ in range(2):
            ledger.submit(a_job(**who(letter), sampling=Sampling(1000 if letter == "a" else 10)), LIMITS)
    first, second = hand.claim(), hand.claim()
    assert (first.job.share[0], second.job.share[0]) == ("a", "b")

    hand.end(first, tokens=1)

    assert hand.claim().job.share[0] == "a"


def test_who_was_idle_has_no_claim_on_the_past(ledger: Ledger, hand: Hand, who: Who) -> None:
    for _ in range(10):
        ledger.submit(a_job(**who("a")), LIMITS)
    for _ in range(8):
        hand.end(hand.claim(), tokens=10)
    for _ in range(4):
        ledger.submit(a_job(**who("b")), LIMITS)

    claims = [hand.claim() for _ in range(4)]

    assert Counter(claim.job.share[0] for claim in claims) == {"a": 2, "b": 2}


def test_a_score_outlives_the_queue(ledger: Ledger, hand: Hand, who: Who) -> None:
    ledger.submit(a_job(**who("a"), sampling=Sampling(1000)), LIMITS)
    hand.end(hand.claim(), tokens=1000)

    ledger.submit(a_job(**who("a")), LIMITS)
    ledger.submit(a_job(**who("b")), LIMITS)

    assert hand.claim().job.share == share("b")


def test_every_tenth_claim_with_room_takes_the_lowest_class(ledger: Ledger, hand: Hand) -> None:
    for _ in range(30):
        ledger.submit(a_job(), LIMITS)
        ledger.submit(a_job(cls="batch"), LIMITS)

    classes = [hand.claim().job.cls for _ in range(20)]

    assert [number for number, cls in enumerate(classes, 1) if cls == "batch"] == [10, 20]


def test_each_class_has_its_turn_and_keeps_what_it_got_by_it(ledger: Ledger, hand: Hand) -> None:
    for _ in range(40):
        for cls in CLASSES:
            ledger.submit(a_job(cls=cls), LIMITS)

    claims = [hand.claim() for _ in range(40)]

    turns = {number: claim.job.cls for number, claim in enumerate(claims, 1) if claim.job.cls != "interactive"}
    assert turns == {10: "batch", 20: "normal", 30: "batch", 40: "normal"}
    assert [number for number, claim in enumerate(claims, 1) if claim.is_kept] == list(turns)


def test_a_turn_that_nobody_above_waits_for_is_none(ledger: Ledger, hand: Hand) -> None:
    for _ in range(10):
        ledger.submit(a_job(cls="batch"), LIMITS)

    assert not any(hand.claim().is_kept for _ in range(10))


def test_a_turn_that_nobody_can_keep_is_not_lost(ledger: Ledger, hand: Hand) -> None:
    for _ in range(30):
        ledger.submit(a_job(), LIMITS)
        ledger.submit(a_job(cls="batch"), LIMITS)

    first = [hand.claim(keeps=False).job.cls for _ in range(15)]
    then = [hand.claim().job.cls for _ in range(11)]

    assert first == ["interactive"] * 15
    assert [number for number, cls in enumerate(then) if cls == "batch"] == [0, 10]


def test_claims_without_room_are_not_counted_for_the_lowest_class(ledger: Ledger, hand: Hand) -> None:
    for _ in range(20):
        ledger.submit(a_job(), LIMITS)
        ledger.submit(a_job(cls="batch"), LIMITS)

    classes = {hand.claim(has_room=False).job.cls for _ in range(20)}

    assert classes == {"interactive"}


def test_a_floor_claim_of_a_heavy_batch_does_not_push_newcomers_back(ledger: Ledger, hand: Hand, who: Who) -> None:
    for _ in range(11):
        ledger.submit(a_job(**who("a"), cls="batch", sampling=Sampling(100_000)), LIMITS)
    for _ in range(10):
        hand.claim("batch")
    for _ in range(12):
        ledger.submit(a_job(**who("b")), LIMITS)
    assert [hand.claim().job.cls for _ in range(10)][9] == "batch"

    ledger.submit(a_job(**who("c")), LIMITS)

    assert {hand.claim().job.share for _ in range(2)} == {share("b"), share("c")}


def test_more_than_a_hundred_late_jobs_are_passed_over(ledger: Ledger, hand: Hand) -> None:
    late = [a_job(end_s=0) for _ in range(130)]
    good = a_job()
    for job in (*late, good):
        ledger.submit(job, LIMITS)

    assert hand.claim().job == good
    assert texts(ledger, late[-1]) == ["failed"]


def test_a_job_that_vanished_does_not_stop_the_queue(ledger: Ledger, hand: Hand, raw: Any) -> None:
    lost, good = a_job(), a_job()
    for job in (lost, good):
        ledger.submit(job, LIMITS)
    raw.delete(f"{{q00}}:j:{lost.id}")

    assert hand.claim().job == good

    raw.hincrby("{q00}:st:m", "ready:interactive", -1)  # nobody could count the lost one


def test_workers_that_claim_at_once_never_get_the_same_job(ledger: Ledger) -> None:
    jobs = [a_job(share=share("abcd"[number % 4])) for number in range(120)]
    for job in jobs:
        ledger.submit(job, LIMITS)

    def work(name: str) -> list[str]:
        claims = iter(lambda: ledger.claim(name, "m", CLASSES), None)
        return [claim.job.id for claim in claims]

    with ThreadPoolExecutor(8) as threads:
        taken = [job_id for ids in threads.map(work, [f"w{number}" for number in range(8)]) for job_id in ids]

    assert sorted(taken) == sorted(job.id for job in jobs)


def test_what_was_said_comes_with_the_next_claim(ledger: Ledger, hand: Hand) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)
    hand.say(hand.claim(), "a", "b")
    ledger.reap("w1")

    claim = Hand(ledger, "w2").claim()

    assert [delta.text for delta in claim.said] == ["a", "b"]
    assert (claim.epoch, claim.seq) == (3, 2)
    assert ledger.job(OWNER, job.id) == claim.job
