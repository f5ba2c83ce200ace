"""An answer that may call tools: its tokens as content and pieces of calls, while they come."""

import codecs
from collections.abc import Iterable, Iterator, Sequence

from common.constraints.splitter import Arguments, CallStart, Content, Piece, Splitter
from common.constraints.verify import errors
from common.jobs import Call, Finish
from common.toolformat import ToolPlan
from worker.engine.text import Speech, Text


class Calls(Text):
    """Reads tokens as the bytes that the grammar sees; stop strings are looked for in the content only."""

    def __init__(self, speech: Speech, stops: Sequence[str], plan: ToolPlan) -> None:
        super().__init__(speech.decode, stops)
        self._speech, self._plan = speech, plan
        self._splitter = Splitter(plan)
        self._markers = plan.format.markers()
        self._bytes = codecs.getincrementaldecoder("utf-8")("ignore")
        self._is_stripped = False  # whether the tokenizer leaves out the space that its first token begins with
        self._content, self._told = "", 0  # characters of it that were shown
        self._made: list[tuple[str, list[str]]] = []  # each call's tool, and the pieces of its arguments
        self._new: list[Call] = []

    def push(self, token: int) -> tuple[str, bool]:
        """What this token adds to the content, and whether it completes a stop string; see ``drain`` for calls."""
        marker = self._markers.get(token)
        new = self._read(token) if marker is None else marker
        self._is_stripped |= not self.decoded and new.startswith(" ") and not self.decode((token,)).startswith(" ")
        self.decoded += len(new)
        self.shown = self.decoded
        return self._taken(self._splitter.feed(new, is_special=marker is not None))

    def close(self) -> str:
        """The content that waited for more in vain."""
        shown, is_stopped = self._taken(self._splitter.finish())
        return shown if is_stopped else shown + self._stops.rest()

    def drain(self) -> tuple[Call, ...]:
        """The pieces of calls that came since the last time."""
        new, self._new = tuple(self._new), []
        return new

    def ends_with(self, finish: Finish) -> Finish:
        """The same, or what an answer with calls ends with."""
        return self._plan.finish if finish == "stop" and self._made else finish

    def errors(self, schema: str | None) -> tuple[str, ...]:
        """Where calls, or an answer without any, miss what they were not held to."""
        if self._made:
            return tuple(self._wrong())
        return () if schema is None else errors(schema, self._content)

    def _wrong(self) -> Iterator[str]:
        for at, (name, pieces) in enumerate(self._made):
            if schema := self._plan.looked_at.get(name):
                found = errors(schema, "".join(pieces))
                yield from (f"/tool_calls/{at}/function/arguments{pointer}" for pointer in found)

    def _read(self, token: int) -> str:
        """Its characters, unless it is never shown; alone, a space in front may not be, either."""
        return self._bytes.decode(self._speech.spell(token)) if self.decode((token, token)) else ""

    def _taken(self, pieces: Iterable[Piece]) -> tuple[str, bool]:
        text, began = "", len(self._new)
        for piece in pieces:
            match piece:
                case Content(more):
                    text += more
                case CallStart(index, name):
                    self._made.append((name, []))
                    self._new.append(Call(index, name))
                case Arguments(index, more):
                    self._made[index][1].append(more)
                    self._new.append(Call(index, "", more))
        if text and self._is_stripped and not self._content:
            text, self._is_stripped = text.removeprefix(" "), False
        self._content += text
        shown, is_stopped = self._stops.push(text)
        self._told += len(shown)
        if is_stopped:  # calls stand behind all content
            self._made.clear()
            del self._new[began:]
            self.shown = self.decoded - (len(self._content) - self._told)
        elif len(self._new) > began:
            shown += self._stops.rest()
        return shown, is_stopped


def unsaid(calls: Iterable[Call], said: Sequence[Call]) -> Iterator[Call]:
    """What these have beyond those."""
    names, size = sum(bool(call.name) for call in said), sum(len(call.arguments) for call in said)
    for call in calls:
        if call.name:
            if names <= 0:
                yield call
            names -= 1
            continue
        if rest := call.arguments[size:]:
            yield Call(call.index, "", rest)
        size = max(0, size - len(call.arguments))


def length(calls: Iterable[Call]) -> int:
    """How much it is, to compare what is said again with what was said."""
    return sum(len(call.name) + len(call.arguments) for call in calls)
