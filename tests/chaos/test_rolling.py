"""Upgrades, and what is left of a load when it is over."""

from pathlib import Path

import pytest

from tests.chaos.house import COUNTING, Size
from tests.chaos.run import Order, run

LEAST = 5
CONNECTIONS = 64  # that a process keeps to Redis once it has needed them
MANY = COUNTING.replace("slots = 8", "slots = 32")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_part_after_the_other_is_started_again_and_nothing_is_lost(tmp_path: Path) -> None:
    order = Order(seed=2, faults=6, size=Size(2, 2, 1), clients=10, kinds=("worker ended", "front end ended"))
    lines: list[str] = []

    report = run(order, tmp_path, lines.append)

    ended = {(done.fault.kind, done.fault.target) for done in report.done}
    assert len(ended) == 4, "\n".join(lines)  # each of them
    assert report.is_good(), report.table()
    assert all(done.whole_s is not None for done in report.done)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_was_used_under_load_is_given_back(tmp_path: Path) -> None:
    order = Order(seed=4, faults=0, size=Size(1, 1, 1), clients=40, tokens=40, every_s=10, toml=MANY)

    report = run(order, tmp_path, print)

    figures = report.figures()
    assert report.is_good(), report.table()
    assert figures["jobs"] > 2 * (CONNECTIONS + LEAST)
    assert max(figures["threads_more"].values(), default=0) <= LEAST
    assert max(figures["descriptors_more"].values(), default=0) <= CONNECTIONS + LEAST
