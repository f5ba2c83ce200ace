"""What steps cost is told apart, whatever came together in them."""

import random

import pytest

from worker.engine.pace import Pace


def test_the_pace_shrinks_and_recovers() -> None:
    pace = Pace()
    pace.shrink()
    pace.shrink()
    assert pace.prefill_tokens == 128
    for _ in range(9):
        pace.shrink()
    assert pace.prefill_tokens == 16

    pace.recover()
    assert pace.prefill_tokens == 512


def test_the_pace_learns_what_a_prompt_token_costs() -> None:
    pace = Pace()
    assert (pace.tokens_per_s, pace.prefill_tokens) == (None, 512)

    for _ in range(100):
        pace.note(0.01, (0, 2, 0), 2, 0.5)
        pace.note(0.11, (100, 3, 0), 3, 0.5)  # 1 ms a token

    assert pace.prefill_tokens == pytest.approx(50, abs=3)
    assert pace.tokens_per_s is not None
    assert 27 < pace.tokens_per_s < 200


@pytest.mark.parametrize(
    ("step_s", "row_s", "token_s"), [(0.003, 0.0011, 0.0007), (0.002, 0.0002, 0.00005), (0.02, 0.0001, 0.00005)]
)
def test_rows_that_decode_do_not_make_prompts_seem_dear(step_s: float, row_s: float, token_s: float) -> None:
    """As many come as end, so no step reads no prompt."""
    drawn, pace, rows, waiting, wanted = random.Random(1), Pace(), 0, 32 * 75, list[int]()
    for _ in range(300):
        reads = min(waiting, pace.prefill_tokens)
        cost = step_s + row_s * rows + token_s * reads
        pace.note(cost * drawn.uniform(0.9, 1.3), (reads, rows, 0), rows, 1.0)
        wanted.append(pace.prefill_tokens)
        waiting -= reads
        rows = min(32, rows + reads // 75)
        ends = drawn.randrange(1 + rows // 8)
        rows, waiting = rows - ends, waiting + 75 * ends + 10

    assert 0.5 < sum(wanted[100:]) / 200 / (0.05 / token_s) < 1.3
    assert min(wanted[5:]) > 0.3 * 0.05 / token_s


@pytest.mark.parametrize("at", [0, 300])
@pytest.mark.parametrize("hiccup_s", [0.5, 10.0])
def test_one_step_that_took_strangely_long_is_forgotten(at: int, hiccup_s: float) -> None:
    """Steady load after it: as many rows in every step, and prompts always wait."""
    drawn, pace, wanted = random.Random(1), Pace(), list[int]()
    for step in range(600):
        reads, rows = pace.prefill_tokens, drawn.randrange(28, 33)
        cost = (0.01 + 0.002 * rows + 0.0006 * reads) * drawn.uniform(1, 1.2)
        pace.note(cost + (step == at) * hiccup_s, (reads, rows, 0), rows, 1.0)
        wanted.append(pace.prefill_tokens)

    after = wanted[at + 10 :]
    assert min(after) > 83 / 2
    assert sum(after) / len(after) < 2 * 83


def test_the_budget_grows_by_four_times_at_most() -> None:
    pace = Pace()
    for _ in range(200):
        pace.note(0.05, (50, 1, 0), 1, 1.0)
    before = pace.prefill_tokens

    pace.note(0.0, (300, 0, 0), 0, 1.0)

    assert pace.prefill_tokens <= 4 * before + 4


def test_what_prompts_and_tokens_cost_is_summed_apart_while_the_slots_are_full() -> None:
    pace = Pace()
    for _ in range(100):
        pace.note(0.01, (0, 2, 0), 2, 0.3)  # too few to tell
        pace.note(0.11, (100, 2, 0), 2, 0.3)
    before = dict(pace.note(0.01, (0, 8, 1), 8, 1.0))

    sums = dict(pace.note(0.11, (100, 8, 0), 8, 0.9))

    assert before["prefill_s"] == pytest.approx(10, rel=0.1)
    assert sums["prefill_s"] - before["prefill_s"] == pytest.approx(0.1, rel=0.1)
    assert before["full_s"] == pytest.approx(0.01)
    assert before["full_tokens"] == 8
    assert sums["full_s"] - before["full_s"] == pytest.approx(0.01, abs=0.006)
    assert sums["full_tokens"] == 16

    quick = dict(pace.note(0.0001, (100, 8, 0), 8, 1.0))

    assert quick["full_s"] >= sums["full_s"]  # no step gives time back


def test_a_step_that_read_and_said_nothing_teaches_nothing() -> None:
    pace = Pace()
    pace.note(3.0, (0, 0, 0), 0, 0)

    assert (pace.tokens_per_s, pace.prefill_tokens) == (None, 512)
