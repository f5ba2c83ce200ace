"""How likely tokens were, as the log tells it: each entry waits for the text that its token belongs to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.jobs import Echo, Logprob, Piece

_LEAST = -9999.0  # what OpenAI writes for less
Spell = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Asked:
    """Which tokens of a feed are to be scored: those from a place on, and the one that is drawn."""

    since: int  # counted over prompt and answer
    top: int  # so many of the likeliest


class Score(NamedTuple):
    """A token, its log-probability by the model alone, and the likeliest of its place."""

    token: int
    value: float
    top: tuple[tuple[int, float], ...] = ()


class Entries:
    """The entries of one answer that were not told yet."""

    def __init__(self, spell: Spell, before: int) -> None:
        """``before``: characters of the choice's text in front of the answer."""
        self._spell, self._before = spell, before
        self._waiting: list[tuple[int, Logprob]] = []  # with the character at which each token's text begins

    def add(self, score: Score, start: int) -> None:
        """A token whose text begins after so many characters of the answer."""
        self._waiting.append((start, self._entry(score, self._before + start)))

    def of_prompt(self, tokens: Sequence[int], offsets: Sequence[int], scores: Sequence[Score]) -> tuple[Logprob, ...]:
        """All of them; the first token has no score."""
        first = Logprob(piece(self._spell(tokens[0])), None, offsets[0])
        entries = (first, *(self._entry(score, offset) for score, offset in zip(scores, offsets[1:], strict=True)))
        return tuple(one for one in entries if one.offset >= 0)

    def ready(self, shown: int, decoded: int) -> tuple[Logprob, ...]:
        """Those whose text is out: ``shown`` of ``decoded`` characters are."""
        starts = [start for start, _ in self._waiting] + [decoded]
        count = 0
        for at, start in enumerate(starts[:-1]):
            end = next((later for later in starts[at + 1 :] if later > start), None)  # none: half a character
            if end is None or end > shown:
                break
            count = at + 1
        return self._taken(count)

    def begun(self, shown: int) -> tuple[Logprob, ...]:
        """Those of whose text anything is out, where the rest was cut off."""
        return self._taken(sum(start < shown for start, _ in self._waiting))

    def rest(self) -> tuple[Logprob, ...]:
        """All."""
        return self._taken(len(self._waiting))

    def _entry(self, score: Score, offset: int) -> Logprob:
        top = tuple((piece(self._spell(token)), _floored(value)) for token, value in score.top)
        return Logprob(piece(self._spell(score.token)), _floored(score.value), offset, top)

    def _taken(self, count: int) -> tuple[Logprob, ...]:
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return tuple(one for _, one in taken)


def echoed(echo: Echo) -> int:
    """The entries of a prompt that is told with its scores; what the tokenizer added has none."""
    return sum(offset >= 0 for offset in echo.offsets or ())


def piece(spelled: bytes) -> Piece:
    """A token's text, or its bytes where they are no text."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return tuple(spelled)


def _floored(value: float) -> float:
    return max(value, _LEAST)
