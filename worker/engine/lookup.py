"""Guesses what a sequence will say: what followed the last time its newest tokens came in this order.

A guess is read together with the newest token and costs little where few sequences run; whether it was right, the draw
at each place decides, so nothing that is said depends on it.
"""

from collections.abc import Sequence

_ORDER = 3  # tokens that must be the same
_REST = 32  # steps without a guess after guessing did not pay
_START, _LEAST, _WEIGHT = 0.5, 0.2, 0.2  # the share of right guesses: at first, worth going on, the newest one's part


class Lookup:
    """One sequence's tokens, by what came before them."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # some tokens in this order, and where the next one stands
        self._share = _START
        self._silent = 0

    def add(self, tokens: Sequence[int]) -> None:
        """What was read or said next."""
        for token in tokens:
            last = tuple(self._tokens[-_ORDER:])
            if len(last) == _ORDER:
                self._after[last] = len(self._tokens)
            self._tokens.append(token)

    def guess(self, most: int) -> tuple[int, ...]:
        """The next tokens, perhaps; none where nothing was seen, or where guessing has not paid lately."""
        if self._share < _LEAST and self._silent > 0:
            self._silent -= 1
            return ()
        at = self._after.get(tuple(self._tokens[-_ORDER:]))
        return () if at is None else tuple(self._tokens[at : at + most])

    def was(self, right: int, guessed: int) -> None:
        """How much of a guess came."""
        self._share += _WEIGHT * (right / guessed - self._share)
        self._silent = _REST if self._share < _LEAST else 0
