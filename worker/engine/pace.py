"""What steps have cost lately, and so what the next may read.

A step takes so long, and longer for each row that decodes and each prompt token. All three are found together, by least
squares: where requests never cease to come, no step shows one of them alone.
"""

import math

import numpy as np
from numpy.typing import NDArray

_PREFILL_S = 0.05  # reading prompts may make running sequences wait so long in one step
_FIRST_TOKENS = 512  # prompt tokens of a step before we know what they cost
_LEAST_TOKENS = 16  # of a step, however slow they are
_FULL = 0.9  # of the slots: as many as batches can fill
_WEIGHT = 0.1  # of the newest step in a moving mean
_KEPT = 0.95  # of the weight of all steps before the newest
_TICK_S = 1e-6  # no step is quicker
_USUAL = np.array((1.0, 32.0, 256.0))  # a step, its rows, its prompt tokens: all about as large
_INERTIA = 0.05  # against what few steps show
_LEAST = 0.25  # of what a token cost in the best of all steps: a prompt token costs so much at least
_STRANGE = 3.0  # times what was expected: of the first steps the dearer one is forgotten, later ones count as so much
_EARLY = 10  # steps


class Pace:
    """What steps have cost lately."""

    def __init__(self) -> None:
        self.tokens_per_s: float | None = None
        self.ends_per_s: float | None = None  # sequences that give their slot up
        self._prefill_s: float | None = None  # a prompt token
        self._cheapest_s = math.inf  # a token, in the best of all steps
        self._most: int | None = None  # prompt tokens, while memory is short
        self._cost = _Cost()
        self._sums = {"prefill_s": 0.0, "full_s": 0.0, "full_tokens": 0.0}

    @property
    def prefill_tokens(self) -> int:
        """So many prompt tokens a step may read without keeping running sequences waiting for long."""
        wanted = _FIRST_TOKENS if self._prefill_s is None else int(_PREFILL_S / self._prefill_s)
        return max(_LEAST_TOKENS, wanted if self._most is None else min(wanted, self._most))

    def shrink(self) -> None:
        """Memory is short: half as many from now on."""
        self._most = self.prefill_tokens // 2

    def recover(self) -> None:
        """It no longer is, perhaps."""
        self._most = None

    def note(self, seconds: float, tokens: tuple[int, int, int], rows: int, full: float) -> dict[str, float]:
        """A step took so long for so many prompt tokens, new tokens and ends, with rows that decoded, and full slots.

        ``full``: the share of the slots in use. Returns the sums so far.
        """
        prefilled, generated, ended = tokens
        seconds = max(seconds, _TICK_S)
        if generated:
            self.tokens_per_s = _mean(self.tokens_per_s, generated / seconds)
            self.ends_per_s = _mean(self.ends_per_s, ended / seconds)
        if rows or prefilled:
            self._cost.note(rows, prefilled, seconds)
        if prefilled:
            self._cheapest_s = min(self._cheapest_s, seconds / (rows + prefilled))
            least = _LEAST * max(self._cheapest_s, self._prefill_s or 0.0)
            self._prefill_s = max(least, min(self._cost.token_s, seconds / prefilled))
        reading = min(seconds, (self._prefill_s or 0.0) * prefilled)
        self._sums["prefill_s"] += reading
        if full >= _FULL:
            self._sums["full_s"] += seconds - reading
            self._sums["full_tokens"] += generated
        return self._sums


class _Cost:
    """Least squares; the newest steps count most, and what they do not show stays as it was."""

    def __init__(self) -> None:
        self._found: NDArray[np.float64] = np.zeros(3)  # seconds of a step, of the usual rows, of the usual tokens
        self._seen, self._met = np.zeros((3, 3)), np.zeros(3)
        self._steps = 0

    @property
    def token_s(self) -> float:
        """Of a prompt."""
        return float(self._found[2] / _USUAL[2])

    def note(self, rows: int, tokens: int, seconds: float) -> None:
        """A step took so long."""
        step = np.array((1, rows, tokens)) / _USUAL
        expected = float(step @ self._found)
        self._steps += 1
        if self._steps > _EARLY and expected > 0:
            seconds = min(seconds, _STRANGE * expected)
        elif expected > _STRANGE * seconds:
            self._found, self._seen, self._met = np.zeros(3), np.zeros((3, 3)), np.zeros(3)
        self._seen = _KEPT * self._seen + np.outer(step, step)
        self._met = _KEPT * self._met + seconds * step
        self._found += np.linalg.solve(self._seen + _INERTIA * np.eye(3), self._met - self._seen @ self._found)


def _mean(mean: float | None, newest: float) -> float:
    return newest if mean is None else mean + _WEIGHT * (newest - mean)
