"""Tokens to text as they come: no half characters, no stop strings, nothing shown that must be taken back."""

from collections.abc import Callable, Sequence
from typing import Protocol

from common.jobs import Call, Finish

_HALF = "\ufffd"  # how a decoder shows bytes that are no character (yet)
_LONG = 12  # tokens decoded together before the oldest are let go
_STUCK = 64  # tokens without one whole character: no character is that long
_REST = 3  # what may still become a character: all its bytes but one

Decode = Callable[[Sequence[int]], str]


class Speech(Protocol):
    """What a model's tokens say."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text, without special tokens."""

    def spell(self, token: int) -> bytes:
        """One token's part of a text, in UTF-8."""


class Characters:
    """Decodes a growing list of tokens: what it gave out, joined, is the decoded whole.

    Half a character waits for its rest, and is never shown if that does not come. New tokens are decoded together with
    the ones before them, because some decoders treat the first token of a text differently.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._shown = 0  # characters of the window's text that were given out
        self._whole = 0  # tokens of the window up to the last end of a character
        self._silent = 0  # tokens since anything was given out

    def push(self, token: int) -> str:
        """The characters that this token completes."""
        self._window.append(token)
        text = self._decode(self._window)
        end = len(text.rstrip(_HALF))
        self._silent += 1
        if self._silent >= _STUCK:
            end = max(end, len(text) - _REST)
        new = text[self._shown : end]
        if new:
            self._shown, self._silent = end, 0
            if end == len(text):
                self._cut()
        return new

    def _cut(self) -> None:
        """A character ends here: forget what nobody needs any more, keep the tokens of the last piece as context."""
        if len(self._window) > _LONG:
            self._window = self._window[self._whole :]
            self._shown = len(self._decode(self._window))
        self._whole = len(self._window)


class Stops:
    """Holds back what may become a stop string, and cuts before one: whichever is complete first wins.

    Works character by character, so the borders of tokens change nothing.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [(stop, _borders(stop)) for stop in stops if stop]
        self._matched = [0] * len(self._stops)  # characters of each stop that the text ends with
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """What may be shown, and whether a stop string is complete."""
        if not self._stops:
            return text, False
        held = self._held + text
        for at, character in enumerate(text, len(self._held)):
            if longest := self._advance(character):
                return held[: at + 1 - longest], True
        keep = max(self._matched)
        shown = len(held) - keep
        self._held = held[shown:]
        return held[:shown], False

    def rest(self) -> str:
        """What was held back and did not become a stop string."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> int:
        """Take one character; the length of the longest stop string that is now complete."""
        longest = 0
        for which, (stop, borders) in enumerate(self._stops):
            matched = self._matched[which]
            while matched and stop[matched] != character:
                matched = borders[matched - 1]
            matched += stop[matched] == character
            self._matched[which] = matched
            if matched == len(stop):
                longest = max(longest, matched)
        return longest


class Text:
    """The visible text of one sequence."""

    def __init__(self, decode: Decode, stops: Sequence[str]) -> None:
        self.decode = decode
        self._characters = Characters(decode)
        self._stops = Stops(stops)
        self.decoded = 0  # characters, those that wait for a stop string included
        self.shown = 0

    def push(self, token: int) -> tuple[str, bool]:
        """What this token adds, and whether it completes a stop string (then nothing more may follow)."""
        new = self._characters.push(token)
        self.decoded += len(new)
        shown, is_stopped = self._stops.push(new) if new else ("", False)
        self.shown += len(shown)
        return shown, is_stopped

    def drain(self) -> tuple[Call, ...]:
        """Calls of tools stand in no plain text."""
        return ()

    def ends_with(self, finish: Finish) -> Finish:
        """For whoever knows of more reasons."""
        return finish

    def close(self) -> str:
        """The text that waited for a stop string in vain."""
        rest = self._stops.rest()
        self.shown += len(rest)
        return rest


def _borders(stop: str) -> list[int]:
    """For each prefix, how much of its end is its own beginning (Knuth, Morris, Pratt)."""
    borders = [0] * len(stop)
    length = 0
    for at in range(1, len(stop)):
        while length and stop[at] != stop[length]:
            length = borders[length - 1]
        length += stop[at] == stop[length]
        borders[at] = length
    return borders
