"""What drives a batch: interrupted anywhere, it answers each line once."""

import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from common.errors import RateLimitError
from common.files import Files
from common.jobs import Job, new_id
from common.ledger.batches import Batches
from common.ledger.ledger import Ledger
from common.protocol.completions import CompletionRequest
from common.protocol.generation import Read, Room
from common.settings import Settings
from tests.api.hand import Hand
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


class ReadingDoor(OpenDoor):
    """Makes of a line what it asks for."""

    def admit(self, ask: CompletionRequest, who: Any, headers: Any) -> Job:
        return ask.job(who, ask.model, [Read((1, 2, 3))], Room(100, 256, 0, headers))


def test_rows_wait_where_they_would_take_the_room_of_people(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    raw, driver = ledger.partitions[0].redis, a_driver(settings, ledger)
    batch_id = begun(files, batches)
    until(driver, batches, batch_id, "in_progress")
    before, used = raw.config_get("maxmemory")["maxmemory"], raw.info("memory")["used_memory"]
    try:
        raw.config_set("maxmemory", int(used / 0.7))  # a request would still be taken
        driver()
        fed = (told(batches, batch_id).row, ledger.waiting("m")["batch"])
    finally:
        raw.config_set("maxmemory", before)
    driver()
    work(ledger)

    assert fed == (0, 0)
    assert lines(files, until(driver, batches, batch_id, "completed")) == Counter(map(str, range(ROWS)))


def test_a_row_whose_line_is_written_is_kept_for_an_hour(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    raw, driver = ledger.partitions[0].redis, a_driver(settings, ledger)
    batch_id = begun(files, batches, rows=2)
    until(driver, batches, batch_id, "in_progress")
    driver()
    work(ledger, 2)
    unwritten = [raw.ttl(key) for key in raw.keys("{q00}:j:*")]
    until(driver, batches, batch_id, "completed")

    assert min(unwritten) > 29 * 86_400
    assert [3000 < raw.ttl(key) <= 3600 for key in raw.keys("{q00}:[jt]:*")] == [True] * 4


def test_a_batch_is_fed_answered_and_collected(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches, prompts={7: "no"})
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    driver()
    work(ledger)

    batch = until(driver, batches, batch_id, "completed")

    assert lines(files, batch) == Counter(map(str, range(ROWS)))
    assert (batch.completed, batch.failed) == (ROWS - 1, 1)
    assert batches.open(0) == []


def test_a_row_that_may_generate_for_a_moment_may_wait_for_as_long_as_its_batch(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches, rows=1, more={"max_time": 1e-6})
    driver = a_driver(settings, ledger, ReadingDoor())
    until(driver, batches, batch_id, "in_progress")
    driver()
    hand = Hand(ledger)
    row = hand.claim()
    hand.end(row, "hello")

    batch = until(driver, batches, batch_id, "completed")

    assert (row.max_time_s, row.parent) == (1e-6, batch_id)
    assert (batch.completed, batch.failed) == (1, 0)


def test_rows_that_were_submitted_by_one_who_died_are_not_submitted_again(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches, prompts={3: "no"})
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    die_in_mid_step(driver, ledger, told(batches, batch_id))
    work(ledger, 5)

    driver()
    work(ledger)
    batch = until(driver, batches, batch_id, "completed")

    assert lines(files, batch) == Counter(map(str, range(ROWS)))


def test_a_cancel_waits_for_rows_of_which_no_step_tells(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches)
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    die_in_mid_step(driver, ledger, told(batches, batch_id))
    hand = Hand(ledger)
    running = hand.claim()
    assert batches.move(told(batches, batch_id), "cancelling")
    for _ in range(3):
        driver()
    waits = told(batches, batch_id).state
    hand.end(running, "late, and kept")

    batch = until(driver, batches, batch_id, "cancelled")

    assert waits == "cancelling"
    assert set(lines(files, batch).values()) == {1}
    assert lines(files, batch)[running.custom_id] == 1
    assert ledger.waiting("m")["batch"] == 0


def test_what_was_not_begun_in_time_says_so(settings: Settings, ledger: Ledger, files: Files, batches: Batches) -> None:
    batch_id = begun(files, batches)
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    die_in_mid_step(driver, ledger, told(batches, batch_id))
    work(ledger, 2)
    ledger.partitions[0].redis.hset(f"{{q00}}:bat:{batch_id}", "expires", 1)

    batch = until(driver, batches, batch_id, "expired")

    assert lines(files, batch) == Counter(map(str, range(ROWS)))
    assert (batch.completed, batch.failed) == (2, ROWS - 2)


def test_while_no_worker_serves_the_model_rows_wait(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id, door = begun(files, batches, 3), OpenDoor()
    driver = a_driver(settings, ledger, door)
    door.is_closed = True
    until(driver, batches, batch_id, "in_progress")
    for _ in range(3):
        driver()
    before = told(batches, batch_id)
    door.is_closed = False
    driver()
    work(ledger)

    assert (before.row, before.failed) == (0, 0)
    assert until(driver, batches, batch_id, "completed").completed == 3


def test_a_file_with_answers_that_was_deleted_stays_deleted(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches)
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    driver()
    work(ledger, 10)
    driver()
    file = told(batches, batch_id).file("output")
    assert files.delete(OWNER, file)
    work(ledger)

    batch = until(driver, batches, batch_id, "completed")

    assert batch.completed == ROWS
    assert files.get(OWNER, file) is None


def test_who_was_slower_neither_counts_rows_twice_nor_makes_a_file_shrink(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches)
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    driver()
    work(ledger, 10)
    slow = told(batches, batch_id)
    driver()
    early = files.get(OWNER, slow.file("output"))
    work(ledger)
    batch = until(driver, batches, batch_id, "completed")
    assert early is not None

    files.grow(early, early.parts)

    assert not batches.collected(slow, ["x-1", ""], (10, 0), (1, 0, 1))
    assert not batches.fed(replace(slow, row=0), 64, 1, {}, ["{}"])
    assert lines(files, batch) == Counter(map(str, range(ROWS)))


def test_only_so_many_batches_of_one_owner_are_open(ledger: Ledger, files: Files, batches: Batches) -> None:
    first = told(batches, begun(files, batches, 1))
    second = replace(first, id=new_id())

    with pytest.raises(RateLimitError, match="1 batches of yours are open"):
        batches.put(second, 1)
    assert batches.move(first, "failed")
    batches.put(second, 1)

    assert [batch.id for batch in batches.every(OWNER)] == [second.id, first.id]
    assert ledger.partition(OWNER) == 0


def test_a_batch_waits_for_its_window_and_stops_where_it_closes(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    day = time.time() // 86_400 * 86_400 - 10 * 86_400  # no batch is late
    hour = [21.9]
    batch_id = begun(files, batches, 300, window="22:00-06:00 UTC", not_before=str(int(day)))
    driver = a_driver(settings, ledger, clock=lambda: day + hour[0] * 3600)

    until(driver, batches, batch_id, "in_progress")
    driver()
    early = told(batches, batch_id).row
    hour[0] = 22
    driver()
    driver()
    opened = told(batches, batch_id).row
    work(ledger, 30)
    driver()
    later = told(batches, batch_id).row
    hour[0] = 30
    work(ledger, 200)
    driver()
    closed = told(batches, batch_id)
    hour[0] = 46
    for _ in range(5):
        driver()
        work(ledger, 300)

    assert (early, opened) == (0, 64)  # so few that they end soon after the window
    assert later == 64 + 30
    assert (closed.row, closed.taken) == (later, later)
    assert lines(files, until(driver, batches, batch_id, "completed")) == Counter(map(str, range(300)))


def test_a_dry_run_looks_at_each_line_and_answers_none(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches, prompts={7: "no"}, dry_run="true", not_before=str(int(time.time()) + 3000))
    driver = a_driver(settings, ledger)

    batch = until(driver, batches, batch_id, "completed")

    assert ledger.waiting("m")["batch"] == 0
    assert lines(files, batch) == Counter(map(str, range(ROWS)))
    assert (batch.completed, batch.failed) == (ROWS - 1, 1)
    assert batch.asked == {"m": [ROWS - 1, 3 * (ROWS - 1), 10 * (ROWS - 1)]}
    assert (batch.input_tokens, batch.output_tokens) == (0, 0)


def test_what_a_batch_has_used_is_counted(settings: Settings, ledger: Ledger, files: Files, batches: Batches) -> None:
    batch_id = begun(files, batches, 5, {2: "no"})
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    driver()
    work(ledger)

    batch = until(driver, batches, batch_id, "completed")

    assert (batch.input_tokens, batch.cached_tokens, batch.output_tokens) == (4 * 3, 0, 4)
    assert batch.asked == {"m": [4, 12, 40]}


def test_a_file_with_answers_has_few_parts_however_slowly_they_come(
    settings: Settings, ledger: Ledger, files: Files, batches: Batches
) -> None:
    batch_id = begun(files, batches, 600)
    driver = a_driver(settings, ledger)
    until(driver, batches, batch_id, "in_progress")
    driver()
    work(ledger, 400)
    driver()
    for _ in range(200):
        work(ledger, 1)
        driver()
    work(ledger, 600)  # where reading took longer than a round

    batch = until(driver, batches, batch_id, "completed")

    assert lines(files, batch) == Counter(map(str, range(600)))
    assert len(batches.segments(batch, "output")) < 80
