"""What a batch will take: from what its rows ask for, and from how quick their models were lately."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from common.ledger.replies import Pace

Asked = Mapping[str, Sequence[int]]  # model -> rows, tokens of their prompts, the most of their answers


def estimate(asked: Asked, paces: Mapping[str, Pace]) -> dict[str, Any]:
    """Tokens, and seconds from the first row to the last; what was never measured is null, not guessed.

    Models of one batch work side by side. ``ahead_seconds``: until those are done that wait now.
    """
    prompts, most = ({model: sums[at] for model, sums in asked.items()} for at in (1, 2))
    expected = {model: _product(most[model], paces[model].spent) for model in asked}
    return {
        "prompt_tokens": sum(prompts.values()),
        "completion_tokens": _known(sum, expected.values()),
        "max_completion_tokens": sum(most.values()),
        "seconds": _known(max, [_seconds(paces[model], prompts[model], expected[model]) for model in asked]),
        "max_seconds": _known(max, [_seconds(paces[model], prompts[model], most[model]) for model in asked]),
        "ahead_seconds": _known(max, [_ahead(paces[model]) for model in asked]),
    }


def _seconds(pace: Pace, prompt_tokens: float, tokens: float | None) -> float | None:
    reading, saying = _product(prompt_tokens, pace.prompt_s), _product(tokens, pace.token_s)
    if reading is None or saying is None or not pace.workers:
        return None
    return (reading + saying) / pace.workers


def _ahead(pace: Pace) -> float | None:
    return _seconds(pace, 0, _product(pace.ahead, pace.job_tokens)) if pace.ahead else 0.0


def _product(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one * other


def _known(join: Callable[[Collection[float]], float], some: Collection[float | None]) -> float | None:
    """All of them joined; None: one of them is not known, or there is none."""
    known = [one for one in some if one is not None]
    return round(join(known), 3) if known and len(known) == len(some) else None
