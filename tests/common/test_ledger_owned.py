"""An owner's jobs, one after the other, while others come and go."""

from itertools import islice
from typing import Any

import pytest

from common.ledger.ledger import Ledger
from tests.builders import OWNER, a_job
from tests.common.ledger_audit import LIMITS, Hand

MINE = f"{{q00}}:o:{OWNER}"
ROUND = 100  # what is looked at in one step


def submit(ledger: Ledger, count: int, **fields: Any) -> list[str]:
    """So many, perhaps in one millisecond; their ids."""
    jobs = [a_job(**fields) for _ in range(count)]
    ledger.submit_each(jobs, LIMITS)
    return [job.id for job in jobs]


def test_whoever_comes_while_jobs_are_listed_moves_none_of_them(ledger: Ledger, raw: Any) -> None:
    submit(ledger, 2 * ROUND + 50)
    there = raw.zrevrange(MINE, 0, -1)
    listed = ledger.owned(OWNER)

    found = list(islice(listed, ROUND))
    submit(ledger, 7)
    found += islice(listed, ROUND)
    submit(ledger, 7)

    assert found + list(listed) == there


@pytest.mark.parametrize("count", [0, 1, ROUND - 1, ROUND, ROUND + 1])
def test_all_are_listed_however_many_there_are(ledger: Ledger, raw: Any, count: int) -> None:
    submit(ledger, count)

    assert list(ledger.owned(OWNER)) == raw.zrevrange(MINE, 0, -1)


def test_jobs_are_listed_by_what_they_are(ledger: Ledger, hand: Hand) -> None:
    other, share = "1" * 32, "2" * 32
    (done,) = submit(ledger, 1)
    hand.end(hand.claim())
    (waiting,) = submit(ledger, 1)
    (small,) = submit(ledger, 1, model="small")
    (shared,) = submit(ledger, 1, share=share)
    submit(ledger, 1, owner=other)

    def found(**wanted: str) -> set[str]:
        return set(ledger.owned(OWNER, **wanted))

    assert found() == {done, waiting, small, shared}
    assert found(state="done") == {done}
    assert found(state="queued", model="m") == {waiting, shared}
    assert found(model="small") == {small}
    assert found(share=share) == {shared}
    assert found(model="none-such") == found(model="") == found(share=other) == set()


def test_a_list_goes_on_behind_a_job_that_is_kept_no_more(ledger: Ledger, raw: Any) -> None:
    submit(ledger, 5)
    ids = raw.zrevrange(MINE, 0, -1)
    ledger.cancel(OWNER, ids[2])
    raw.delete(f"{{q00}}:j:{ids[2]}", f"{{q00}}:t:{ids[2]}")

    assert list(ledger.owned(OWNER, ids[2])) == ids[3:]
    assert list(ledger.owned(OWNER)) == [*ids[:2], *ids[3:]]


def test_behind_a_job_too_old_to_be_listed_is_nothing(ledger: Ledger, raw: Any) -> None:
    submit(ledger, 5)
    ids = raw.zrevrange(MINE, 0, -1)
    raw.zremrangebyrank(MINE, 0, 1)

    assert list(ledger.owned(OWNER, ids[-1])) == []
    assert list(ledger.owned(OWNER, "f" * 34)) == []


def test_jobs_that_nobody_asked_for_are_not_read(ledger: Ledger, raw: Any) -> None:
    submit(ledger, ROUND)
    raw.config_resetstat()

    assert list(ledger.owned(OWNER, model="none-such")) == []

    asked = {name.removeprefix("cmdstat_"): told["calls"] for name, told in raw.info("commandstats").items()}
    assert asked["evalsha"] <= 3  # the last look finds nothing, the first may have to say what the script is
