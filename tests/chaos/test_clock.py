"""Leases, deadlines and keys do not depend on a wall clock of ours."""

import threading
import time
from pathlib import Path

import pytest

from tests.chaos.history import Question
from tests.chaos.house import House, Size
from tests.chaos.wire import Call

HOURS = 7200
SHIFTS = {"worker0": HOURS, "worker1": -HOURS, "front0": HOURS, "chores0": -HOURS, "chores1": HOURS}
LONGER_THAN_A_LEASE_S = 3


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_clocks_that_are_hours_wrong_end_reap_and_lose_nothing(tmp_path: Path) -> None:
    asked = [Question(str(number), "whole", f"count on: {number} ", 300) for number in range(8)]

    with House(tmp_path, Size(workers=2, front_ends=2, chores=2), shifts_s=SHIFTS) as house:
        assert house.wait_whole(threading.Event())
        workers = {worker.worker for worker in house.ledger.workers()}
        began = time.time()
        answers = []
        calls = [Call(house.urls[at % 2], "POST", "/v1/completions", one.body()) for at, one in enumerate(asked)]
        for call in calls:
            call.__enter__()
        for call in calls:
            answers.append(call.json())
            call.__exit__()
        threading.Event().wait(max(0.0, LONGER_THAN_A_LEASE_S - (time.time() - began)))
        kept = {worker.worker for worker in house.ledger.workers()}

    assert [answer["choices"][0]["text"] for answer in answers] == [question.answer()[0] for question in asked]
    assert [round((answer["created"] - began) / HOURS) for answer in answers] == [1, 0] * 4  # the clocks were wrong
    assert kept == workers
    assert "reaped" not in "".join(log.read_text() for log in tmp_path.glob("*.log"))
