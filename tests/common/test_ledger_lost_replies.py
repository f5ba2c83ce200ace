from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import StorageError
from common.files import Files
from common.jobs import CLASSES
from common.ledger.ledger import Ledger
from common.settings import Settings
from ops.embedded import free_port
from tests.builders import OWNER, a_job
from tests.common.ledger_audit import LIMITS, Hand, texts
from tests.common.lossy import Line, lossy

ALL_TRIES = 3


@pytest.fixture
def line(redis_url: str) -> Iterator[Line]:
    with lossy(redis_url) as line:
        yield line


@pytest.fixture
def far(line: Line) -> Iterator[Hand]:
    """A worker at the far end of that line."""
    ledger = Ledger((line.url,))
    hand = Hand(ledger)
    hand.ledger.beat(hand.info(), {})  # the scripts are known to Redis
    yield hand
    ledger.close()


def test_a_job_whose_receipt_was_lost_is_stored_once(ledger: Ledger, far: Hand, line: Line) -> None:
    far.ledger.submit(a_job(), LIMITS)
    job = a_job()
    line.losses = 1

    place = far.ledger.submit(job, LIMITS, "f1")

    assert place.position == 2
    assert ledger.waiting("m")["interactive"] == 2


def test_several_whose_receipt_was_lost_are_stored_once(ledger: Ledger, far: Hand, line: Line) -> None:
    jobs = [a_job() for _ in range(3)]
    far.ledger.submit_each([a_job()], LIMITS)
    line.losses = 1

    told = far.ledger.submit_each(jobs, LIMITS)

    assert told == [None] * 3
    assert ledger.waiting("m")["interactive"] == 4


def test_items_whose_receipt_was_lost_are_stored_once(ledger: Ledger, far: Hand, line: Line) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)
    claim = far.claim()
    far.say(claim, "a")
    line.losses = 1

    reply = far.say(claim, "b", "c", after=1)

    assert (reply.fenced, reply.behind, texts(ledger, job)) == ((), {}, ["a", "b", "c"])


def test_a_claim_whose_reply_was_lost_is_the_same_claim(ledger: Ledger, far: Hand, line: Line) -> None:
    jobs = [a_job() for _ in range(2)]
    for job in jobs:
        ledger.submit(job, LIMITS)
    assert not far.finds("batch")
    line.losses = 1

    claims = [far.claim() for _ in jobs]

    assert [(claim.job, claim.epoch) for claim in claims] == [(jobs[0], 1), (jobs[1], 1)]


def test_a_turn_whose_reply_was_lost_is_the_same_turn(ledger: Ledger, far: Hand, line: Line) -> None:
    for _ in range(10):
        ledger.submit(a_job(), LIMITS)
    ledger.submit(a_job(cls="batch"), LIMITS)
    for _ in range(9):
        far.claim()
    line.losses = 1

    claim = far.claim()

    assert (claim.job.cls, claim.is_kept) == ("batch", True)


def test_a_claim_that_was_given_up_is_found_by_the_next(ledger: Ledger, far: Hand, line: Line) -> None:
    jobs = [a_job() for _ in range(2)]
    for job in jobs:
        ledger.submit(job, LIMITS)
    assert not far.finds("batch")
    line.losses = ALL_TRIES

    with pytest.raises(StorageError):
        far.claim()

    assert far.ledger.beat(far.info(), {}).waiting["interactive"] == 2  # one of them is ours already
    assert [far.claim().job for _ in jobs] == jobs
    assert far.ledger.beat(far.info(), {}).waiting["interactive"] == 0


def test_a_claim_that_was_given_up_and_reaped_is_not_found_again(ledger: Ledger, far: Hand, line: Line) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)
    assert not far.finds("batch")
    line.losses = ALL_TRIES
    with pytest.raises(StorageError):
        far.claim()
    ledger.reap("w1")
    heir = Hand(ledger, "w2").claim()

    assert not far.finds()
    assert heir.job == job


def test_counters_of_a_beat_whose_reply_was_lost_are_added_once(ledger: Ledger, far: Hand, line: Line) -> None:
    line.losses = 1

    far.ledger.beat(far.info(), {"steps": 3})

    assert ledger.counters("m") == {"steps": 3.0}


def test_a_file_whose_deletion_was_not_heard_of_is_deleted_with_its_bytes(
    settings: Settings, far: Hand, line: Line
) -> None:
    files, kept = Files(settings, far.ledger.partitions[0]), []
    for _ in range(2):
        with files.draft() as draft:
            draft.write(b"x")
            kept.append(draft.keep(OWNER, "in", "batch").id)
    files.delete(OWNER, kept[0])  # the script is known to Redis
    line.losses = 1

    told = files.delete(OWNER, kept[1])

    assert (told, line.losses) == (True, 0)
    assert not Path(files.place(kept[1])).exists()
    assert not files.delete(OWNER, kept[1])


def test_a_restarted_redis_learns_the_scripts_again(ledger: Ledger, hand: Hand, raw: Any) -> None:
    job = a_job()
    ledger.submit(job, LIMITS)
    raw.script_flush()

    assert hand.claim().job == job


def test_nobody_at_the_address_is_a_storage_error() -> None:
    away = Ledger((f"redis://127.0.0.1:{free_port()}/0",))

    with pytest.raises(StorageError) as refused:
        away.submit(a_job(), LIMITS)

    away.close()
    assert refused.value.message == "The storage does not answer; try again later."


def test_a_full_redis_refuses_everything_and_changes_nothing(ledger: Ledger, hand: Hand, raw: Any) -> None:
    jobs = [a_job() for _ in range(2)]
    for job in jobs:
        ledger.submit(job, LIMITS, "f1")
    claim = hand.claim()
    limit = raw.config_get("maxmemory")["maxmemory"]

    raw.config_set("maxmemory", 1)
    try:
        refused = [
            _is_refused(call)
            for call in (
                lambda: ledger.submit(a_job(), LIMITS),
                lambda: ledger.claim("w1", "m", CLASSES),
                lambda: hand.say(claim, "a"),
                lambda: ledger.cancel(OWNER, jobs[0].id),
                lambda: ledger.cancel(OWNER, jobs[1].id),
                lambda: ledger.unwatch(jobs[1].id, "f1"),
                lambda: ledger.reap("w1", [jobs[0].id]),
                lambda: ledger.release("w1", [(claim.job.id, claim.epoch, 0)]),
            )
        ]
    finally:
        raw.config_set("maxmemory", limit)

    assert refused == [True] * 8
    hand.say(claim, "a")
    assert (texts(ledger, claim.job), hand.claim().job) == (["a"], jobs[1])


def _is_refused(call: Any) -> bool:
    try:
        call()
    except StorageError:
        return True
    return False
