from pathlib import Path

import pytest

from tests.chaos.faults import HEAVY, KINDS, STEADY, plan
from tests.chaos.house import Size
from tests.chaos.run import Order, by_counting, run

SIZE = Size(workers=2, front_ends=2, chores=1)
LONG = {"step hangs", "front end ended", "clock turned"}  # these take their time, and have tests of their own


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_left_out_repeated_or_changed(tmp_path: Path) -> None:
    kinds = tuple(kind for kind in KINDS if kind not in LONG)
    lines: list[str] = []

    report = run(Order(seed=7, faults=12, size=SIZE, clients=10, kinds=kinds), tmp_path, lines.append, by_counting)

    assert report.is_good(), "\n".join([*lines, report.table()])
    assert report.figures()["jobs"] >= 100


def test_the_same_seed_gives_the_same_faults() -> None:
    assert plan(5, 200, SIZE) == plan(5, 200, SIZE)
    assert plan(5, 200, SIZE) != plan(6, 200, SIZE)
    assert {fault.kind for fault in plan(5, 400, SIZE)} == set(KINDS)


def test_a_run_that_watches_memory_begins_with_the_full_load() -> None:
    begun = plan(5, 29, SIZE, STEADY, spared=1, first=HEAVY)

    assert tuple(fault.kind for fault in begun[: len(HEAVY)]) == HEAVY
    assert {fault.kind for fault in begun[len(HEAVY) :]} - set(HEAVY)
