"""Batches in trouble: what was begun is told once, and nobody else's batch waits for it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from common.errors import NoWorkerError
from common.files import Files
from common.jobs import new_id
from common.ledger.batches import Batches
from common.ledger.ledger import Ledger
from common.settings import Settings
from ops.embedded import free_port
from tests.worker.driving import (
    OWNER,
    ROWS,
    OpenDoor,
    a_driver,
    begun,
    die_in_mid_step,
    lines,
    told,
    until,
    work,
)


class NarrowDoor(OpenDoor):
    """No worker serves what says "away" while that is so; what says "boom" is our own fault."""

    is_away = True

    def admit(self, ask: Any, who: Any, headers: Any) -> Any:
        if "boom" in ask.prompt:
            raise RuntimeError(ask.prompt)
        if "away" in ask.prompt and self.is_away:
            raise NoWorkerError("No worker serves it.")
        return super().admit(ask, who, headers)


def an_hour_later(ledger: Ledger) -> None:
    """What would have gone by then is gone."""
    raw = ledger.partitions[0].redis
    raw.delete("none", *(key for key in raw.keys("{q00}:[jt]:*") if 0 < raw.ttl(key) <= 3600))


@contextmanager
def full(ledger: Ledger) -> Iterator[None]:
    """Requests are still taken, rows are not."""
    raw = ledger.partitions[0].redis
    before, used = raw.config_get("maxmemory")["maxmemory"], raw.info("memory")["used_memory"]
    raw.config_set("maxmemory", int(used / 0.7))
    try:
        yield
    finally:
        raw.config_set("maxmemory", before)


def expire(ledger: Ledger, batch_id: str) -> None:
    ledger.partitions[0].redis.hset(f"{{q00}}:bat:{batch_id}", "expires", 1)


def test_rows_before_one_that_has_to_wait_are_written_down(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id, door = begun(files, batches, prompts={20: "away"}), NarrowDoor()
    driver = a_driver(settings, ledger, door)
    until(driver, batches, batch_id, "in_progress")
    driver()
    work(ledger)
    driver()
    waits = told(batches, batch_id)
    an_hour_later(ledger)
    driver()
    again = ledger.waiting("m")["batch"]
    door.is_away = False
    driver()
    work(ledger)

    assert (waits.row, waits.taken, again) == (16, 16, 0)
    assert lines(files, until(driver, batches, batch_id, "completed")) == Counter(map(str, range(ROWS)))


def test_rows_that_were_answered_before_any_step_told_of_them_are_not_answered_again(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id, door = begun(files, batches), OpenDoor()
    driver = a_driver(settings, ledger, door)
    until(driver, batches, batch_id, "in_progress")
    die_in_mid_step(driver, ledger, told(batches, batch_id))
    work(ledger)
    door.is_closed = True
    driver()
    waits = told(batches, batch_id)
    an_hour_later(ledger)
    door.is_closed = False
    driver()
    again = ledger.waiting("m")["batch"]
    work(ledger)

    assert (waits.row, waits.taken, again) == (0, 20, ROWS - 20)
    assert lines(files, until(driver, batches, batch_id, "completed")) == Counter(map(str, range(ROWS)))


def test_answers_are_counted_only_by_who_knows_which_rows_are_written_down(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches)
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    early = told(batches, batch_id)
    driver()

    assert not batches.collected(early, ["x-1", ""], (1, 0), (1, 0, 1))


def test_who_was_slower_does_not_lead_back_to_lines_that_were_told(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches, prompts={70: "no"})
    slow, quick = (a_driver(settings, ledger, holder=holder) for holder in ("one", "other"))
    until(slow, batches, batch_id, "in_progress")
    batch = told(batches, batch_id)
    with slow._places(batch) as places:
        first, later = (slow._rows.read(batch, list(islice(places, 64))) for _ in range(2))
        behind = slow._feed_some(batch, first)
        assert behind is not None
        with quick._places(behind) as rest:
            quick._feed_some(behind, quick._rows.read(behind, list(rest)))
        behind = slow._feed_some(behind, later)
    work(ledger)

    assert behind is None
    assert told(batches, batch_id).row == ROWS
    assert lines(files, until(slow, batches, batch_id, "completed")) == Counter(map(str, range(ROWS)))


def test_a_batch_whose_file_is_gone_before_it_begins_fails_and_no_other_waits(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    gone, good = sorted(begun(files, batches, 3) for _ in range(2))
    assert files.delete(OWNER, told(batches, gone).input_file)
    driver = a_driver(settings, ledger)

    driver()
    driver()
    work(ledger)

    failed = told(batches, gone)
    assert (failed.state, failed.total, [error["code"] for error in failed.errors]) == ("failed", 0, ["file_not_found"])
    assert until(driver, batches, good, "completed").completed == 3


def test_a_batch_whose_files_bytes_are_away_waits_and_no_other_does(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    away, good = sorted(begun(files, batches, 3) for _ in range(2))
    place = Path(files.place(told(batches, away).input_file))
    kept = place.rename(place.with_suffix(".away"))
    driver = a_driver(settings, ledger)
    driver()
    driver()
    states = [told(batches, one).state for one in (away, good)]
    kept.rename(place)

    until(driver, batches, away, "in_progress")

    assert states == ["validating", "in_progress"]


def test_what_was_begun_is_answered_where_the_file_goes_and_then_the_batch_has_failed(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches, prompts={7: "no", 70: "away"})
    driver = a_driver(settings, ledger, NarrowDoor())
    until(driver, batches, batch_id, "in_progress")
    driver()
    assert files.delete(OWNER, told(batches, batch_id).input_file)
    driver()
    runs = told(batches, batch_id).state
    work(ledger)

    batch = until(driver, batches, batch_id, "failed")

    assert runs == "in_progress"
    assert lines(files, batch) == Counter(map(str, range(64)))
    assert (batch.total, batch.completed, batch.failed) == (ROWS, 63, 1)
    assert [error["code"] for error in batch.errors] == ["file_not_found"]
    assert batches.open(0) == []


def test_rows_of_which_no_step_tells_are_waited_for_where_the_file_goes(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches)
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    die_in_mid_step(driver, ledger, told(batches, batch_id))
    assert files.delete(OWNER, told(batches, batch_id).input_file)
    driver()
    runs = told(batches, batch_id).state
    work(ledger)

    batch = until(driver, batches, batch_id, "failed")

    assert runs == "in_progress"
    assert lines(files, batch) == Counter(map(str, range(20)))


def test_a_batch_that_is_late_and_whose_file_is_gone_gives_its_place_back(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches)
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    die_in_mid_step(driver, ledger, told(batches, batch_id))
    assert files.delete(OWNER, told(batches, batch_id).input_file)
    expire(ledger, batch_id)

    batch = until(driver, batches, batch_id, "failed")

    assert (ledger.waiting("m")["batch"], batch.failed) == (0, 20)
    assert batches.open(0) == []


def test_a_batch_without_a_file_that_it_needs_no_more_is_completed(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches)
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    driver()
    assert files.delete(OWNER, told(batches, batch_id).input_file)
    work(ledger)

    assert until(driver, batches, batch_id, "completed").completed == ROWS


def test_a_cancel_needs_no_worker_no_room_and_no_file(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id, door = begun(files, batches), OpenDoor()
    driver = a_driver(settings, ledger, door)
    until(driver, batches, batch_id, "in_progress")
    die_in_mid_step(driver, ledger, told(batches, batch_id))
    work(ledger, 5)
    assert batches.move(told(batches, batch_id), "cancelling")
    door.is_closed = True
    assert files.delete(OWNER, told(batches, batch_id).input_file)

    with full(ledger):
        batch = until(driver, batches, batch_id, "cancelled")

    assert lines(files, batch) == Counter(map(str, range(20)))
    assert (batch.completed, batch.failed) == (5, 15)
    assert ledger.waiting("m")["batch"] == 0


def test_a_batch_ends_in_time_also_where_there_is_no_room(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches)
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    expire(ledger, batch_id)

    with full(ledger):
        batch = until(driver, batches, batch_id, "expired")

    assert lines(files, batch) == Counter(map(str, range(ROWS)))


def test_nobody_waits_for_a_batch_that_goes_wrong_as_nobody_thought(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    wrong, good = sorted(begun(files, batches, 3, {0: "boom"}) for _ in range(2))
    raw = ledger.partitions[0].redis
    raw.hset(f"{{q00}}:bat:{good}", "input_file", told(batches, begun(files, batches, 3)).input_file)
    driver = a_driver(settings, ledger, NarrowDoor())
    until(driver, batches, good, "in_progress")

    driver()
    work(ledger)

    assert until(driver, batches, good, "completed").completed == 3
    assert told(batches, wrong).state == "in_progress"


def test_a_partition_that_is_away_keeps_none_behind_it_waiting(
    settings: Settings, files: Files, batches: Batches, redis_url: str
) -> None:
    three = Ledger((redis_url, f"redis://127.0.0.1:{free_port()}/0", redis_url))
    last = replace(told(batches, begun(files, batches)), id=new_id(2))
    Batches(three).put(last, 9)
    driver = a_driver(settings, three)

    driver()
    found = Batches(three).get(OWNER, last.id)
    three.close()

    assert found is not None
    assert found.state == "in_progress"
