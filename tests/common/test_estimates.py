"""What a batch will take."""

from dataclasses import replace

import pytest

from common.estimates import estimate
from common.ledger.ledger import Ledger
from common.ledger.replies import Pace, WorkerInfo
from common.settings import Limits
from tests.api.hand import Hand
from tests.builders import a_job

PACE = Pace(workers=2, ahead=10, job_tokens=30.0, spent=0.5, prompt_s=0.001, token_s=0.01)


def test_tokens_and_seconds_follow_from_what_is_asked_and_what_was_measured() -> None:
    told = estimate({"m": [100, 4000, 20_000]}, {"m": PACE})

    assert told == {
        "prompt_tokens": 4000,
        "completion_tokens": 10_000,
        "max_completion_tokens": 20_000,
        "seconds": pytest.approx((4 + 100) / 2),
        "max_seconds": pytest.approx((4 + 200) / 2),
        "ahead_seconds": pytest.approx(10 * 30 * 0.01 / 2),
    }


def test_models_work_side_by_side_and_what_is_not_known_is_not_guessed() -> None:
    asked = {"m": [1, 1000, 1000], "n": [1, 1000, 100]}

    both = estimate(asked, {"m": PACE, "n": PACE})
    one = estimate(asked, {"m": PACE, "n": replace(PACE, token_s=None)})
    idle = estimate(asked, {"m": PACE, "n": replace(PACE, workers=0)})

    assert both["seconds"] == pytest.approx((1 + 5) / 2)
    assert (one["seconds"], one["max_seconds"], one["completion_tokens"]) == (None, None, 550)
    assert (idle["seconds"], idle["ahead_seconds"]) == (None, None)
    assert estimate({}, {})["seconds"] is None


def test_the_ledger_remembers_what_answers_took_of_what_they_were_allowed(ledger: Ledger) -> None:
    hand = Hand(ledger)
    assert ledger.pace("m") == Pace(0, 0, None, None, None, None)
    for pieces in (8, 0):
        for _ in range(400):
            ledger.submit(a_job(), Limits())
            hand.end(hand.claim(), *["x"] * pieces)
    counted = {"prefill_s": 2.0, "prompt_tokens": 1000.0, "full_s": 3.0, "full_tokens": 100.0}
    ledger.beat(WorkerInfo("w", "m", 4, 4, "ready"), counted)

    pace = ledger.pace("m")

    assert (pace.workers, pace.ahead, pace.job_tokens) == (1, 0, 6)
    assert pace.spent == pytest.approx(0.2, abs=0.02)  # the later ones count
    assert (pace.prompt_s, pace.token_s) == (0.002, 0.03)
