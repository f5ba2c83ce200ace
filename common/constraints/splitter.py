"""What a model says, taken apart while it is said: content, and calls of tools.

``feed(text)`` takes a piece of the answer's text, in which incomplete characters are held back. Special tokens come one
by one, ``feed(spelling, is_special=True)``: all of ``ToolFormat.markers`` must, also those that the tokenizer's own
list does not call special; others may, and are left out of the content then. So whoever detokenises
looks for these ids in front of the decoder, decodes the runs between them, and gives each run what it held back before
the special token is fed. The same ids must be special to the constraint engine's tokenizer, or text could spell them.

What has come out depends on all that was fed and never on how it was cut, so a new worker feeds what was said already
and leaves out what comes of it. ``finish`` gives back what was held because it might have become a marker.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from common.toolformat import HOLES, ToolPlan, coded, commonprefix

_STRUCTURE = re.compile(r'["\\{}\[\]]')
_BARE_VALUE = re.compile(r"[-+.\w]*")
_SPECIALS = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call, now that its tool is known."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A piece of a call's arguments, as JSON."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """Its arguments are complete."""

    index: int


Piece = Content | CallStart | Arguments | CallEnd


class Splitter:
    """One answer."""

    def __init__(self, plan: ToolPlan) -> None:
        self._plan, self._format = plan, plan.format
        self._specials = tuple(special for special, _ in plan.format.specials)
        code = plan.format.coded
        names, middle = f"({_any_of(plan.tools)})", _pattern(code(plan.format.middle))
        self._trigger = code(plan.format.trigger) if plan.tools else ""
        self._head = re.compile(_pattern(code(plan.format.begin)) + names + middle)
        self._closing = _closing(plan)
        between = code(plan.format.between or "")
        self._next = re.compile(_pattern(between) + names + middle) if plan.format.between is not None else None
        self._rest, self._pieces = "", list[Piece]()
        self._at = self._text if self._trigger else self._all
        self._index, self._depth, self._in_string = -1, 0, False
        self._tool, self._key, self._is_first, self._is_bare = "", "", True, False

    def feed(self, text: str, *, is_special: bool = False) -> list[Piece]:
        """What it adds."""
        if is_special:
            text = coded(text, self._specials) if text in self._specials else ""
        self._rest += text
        return self._taken()

    def finish(self) -> list[Piece]:
        """The answer is over."""
        if self._at in {self._text, self._all}:
            self._content(len(self._rest))
        elif self._at == self._string:
            self._say(json.dumps(_plain(self._rest), ensure_ascii=False)[1:-1])
        return self._taken(is_over=True)

    def _taken(self, *, is_over: bool = False) -> list[Piece]:
        while not is_over and self._at():
            pass
        pieces, self._pieces = self._pieces, []
        return pieces

    def _all(self) -> bool:
        self._content(len(self._rest))
        return False

    def _text(self) -> bool:
        """Content until a call begins."""
        if self._plan.is_first:
            if self._rest.startswith(self._trigger):
                self._at = self._call
            elif not self._trigger.startswith(self._rest):
                self._at = self._all
            return self._at != self._text
        found = self._rest.find(self._trigger)
        self._content(found if found >= 0 else len(self._rest) - _held(self._rest, self._trigger))
        if found >= 0:
            self._at = self._call
        return found >= 0

    def _call(self) -> bool:
        """The head of the first call."""
        return self._begun(self._head.match(self._rest))

    def _tail(self) -> bool:
        """Between calls, or after the last."""
        return self._next is not None and self._begun(self._next.match(self._rest))

    def _begun(self, head: re.Match[str] | None) -> bool:
        if head is None:
            return False
        self._rest, self._tool = self._rest[head.end() :], head[1]
        self._index += 1
        self._pieces.append(CallStart(self._index, self._tool))
        self._at = self._object
        if self._format.tags is not None:
            self._say("{")
            self._at, self._is_first = self._parameter, True
        return True

    def _object(self) -> bool:
        """Arguments that are JSON already."""
        if not self._scanned():
            return False
        self._ended()
        return True

    def _parameter(self) -> bool:
        """The key of the next argument, or the end of the call."""
        if found := _parameter(self._plan, self._tool, is_first=self._is_first).match(self._rest):
            self._key = next(key for key in found.groups() if key is not None)
            self._rest = self._rest[found.end() :]
            self._say(f"{'' if self._is_first else ', '}{json.dumps(self._key, ensure_ascii=False)}: ")
            self._is_first = False
            self._at = self._value
            if self._plan.tools[self._tool][self._key]:
                self._say('"')
                self._at = self._string
            return True
        if any(self._rest.startswith(closing) for closing in self._closing):
            self._say("}")
            self._ended()
            return True
        return False

    def _string(self) -> bool:
        """A string that is written as it is."""
        after = self._after(is_text=True)
        found = self._rest.find(after)
        size = found if found >= 0 else len(self._rest) - _held(self._rest, after)
        self._say(json.dumps(_plain(self._rest[:size]), ensure_ascii=False)[1:-1])
        self._rest = self._rest[size:]
        if found < 0:
            return False
        self._say('"')
        self._rest = self._rest[len(after) :]
        self._at = self._parameter
        return True

    def _value(self) -> bool:
        """Any other value."""
        if not self._rest:
            return False
        if self._depth or self._in_string or (not self._is_bare and self._rest[0] in '{["'):
            if not self._scanned():
                return False
        else:
            self._is_bare = True  # what follows it may begin like a value of another kind
            size = _BARE_VALUE.match(self._rest).end()  # type: ignore[union-attr]  # matches nothing, too
            self._say(self._rest[:size])
            self._rest = self._rest[size:]
            if not self._rest:
                return False
        self._at, self._is_bare = self._after_value, False
        return True

    def _after_value(self) -> bool:
        after = self._after(is_text=False)
        if not self._rest.startswith(after):
            return False
        self._rest = self._rest[len(after) :]
        self._at = self._parameter
        return True

    def _after(self, *, is_text: bool) -> str:
        tags = self._format.tags
        assert tags is not None  # noqa: S101  only this family has parameters
        return self._format.coded((tags.text if is_text else tags.json)[1])

    def _scanned(self) -> bool:
        """Say JSON as it comes; whether its value is complete."""
        at = 0
        while found := _STRUCTURE.search(self._rest, at):
            at = found.end()
            match found[0]:
                case "\\":
                    at += 1
                case '"':
                    self._in_string = not self._in_string
                case "{" | "[" if not self._in_string:
                    self._depth += 1
                case "}" | "]" if not self._in_string:
                    self._depth -= 1
            if at > len(self._rest):  # half an escape
                at -= 2
                break
            if not self._depth and not self._in_string:
                self._say(self._rest[:at])
                self._rest = self._rest[at:]
                return True
        size = at if found else len(self._rest)
        self._say(self._rest[:size])
        self._rest = self._rest[size:]
        return False

    def _ended(self) -> None:
        self._pieces.append(CallEnd(self._index))
        self._at = self._tail

    def _content(self, size: int) -> None:
        if text := _plain(self._rest[:size]):
            self._pieces.append(Content(text))
        self._rest = self._rest[size:]

    def _say(self, text: str) -> None:
        if text:
            self._pieces.append(Arguments(self._index, text))


def _plain(text: str) -> str:
    return _SPECIALS.sub("", text)


def _held(text: str, marker: str) -> int:
    """How much of the end of a text may still become this marker."""
    return next((size for size in range(min(len(text), len(marker) - 1), 0, -1) if marker.startswith(text[-size:])), 0)


def _any_of(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


def _pattern(literal: str) -> str:
    return "".join(HOLES.get(one) or re.escape(one) for one in literal)


def _parameter(plan: ToolPlan, tool: str, *, is_first: bool) -> re.Pattern[str]:
    """What stands before a value of this tool; compiled patterns are kept by ``re``."""
    tags, code = plan.format.tags, plan.format.coded
    assert tags is not None  # noqa: S101  only this family has parameters
    kinds = ((tags.text[0], True), (tags.json[0], False))
    keys = [
        f"({_any_of(some)}){re.escape(code(before))}"
        for before, kind in kinds
        if (some := [key for key, is_text in plan.tools[tool].items() if is_text is kind])
    ]
    begin = ("" if is_first else code(tags.separator)) + code(tags.begin)
    return re.compile(f"{re.escape(begin)}(?:{'|'.join(keys)})" if keys else "(?!)")


def _closing(plan: ToolPlan) -> tuple[str, ...]:
    """What ends a call whose arguments stand in tags."""
    tags, code = plan.format.tags, plan.format.coded
    if tags is None:
        return ()
    end, between = code(plan.format.end), code(plan.format.between or plan.format.end)
    shared = commonprefix((end, between))
    opens = (code(tags.begin), code(tags.separator + tags.begin))
    if shared and not any(begin.startswith(shared) for begin in opens):
        return (shared,)
    return (end, between)
