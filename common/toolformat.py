"""How a model writes its calls of tools: data that stands in its card, and what a request makes of it.

A call block is ``begin NAME middle ARGUMENTS (between NAME middle ARGUMENTS)* end``; what is in lower case is literal.
In it, ID and INDEX stand for an id of nine letters or digits and for a small number. Where a literal spells one of
``specials``, that token is meant and not its letters.

``coded`` writes each such token as one lone surrogate, which no text of a model can hold, so that literals and answers
can be compared as strings.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from pydantic import TypeAdapter

from common.reading import reader

ID, INDEX = "\ue000", "\ue001"
FIRST = 0xD800  # of 2,048 lone surrogates
HOLES = {ID: "[A-Za-z0-9]{9}", INDEX: "[0-9]{1,3}"}

_MARKER = re.compile(r"[<\[{|].*[>\]}|]", re.DOTALL)

Family = Literal["object", "array", "named", "tagged", "own"]


@dataclass(frozen=True, slots=True)
class Tags:
    """Arguments one by one: ``begin KEY before VALUE after``."""

    begin: str
    text: tuple[str, str]  # before and after a string, which is written as it is
    json: tuple[str, str]  # before and after all other values
    separator: str

    def literals(self) -> tuple[str, ...]:
        """All that is written around keys and values."""
        return (self.begin, *self.text, *self.json, self.separator)


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One model's."""

    family: Family
    begin: str
    middle: str
    between: str | None  # None: one call an answer
    end: str
    trigger: str  # the first part of ``begin``, which tells a call from text
    is_bare: bool = False  # nothing tells it from text but that it stands first
    tags: Tags | None = None
    specials: tuple[tuple[str, int], ...] = ()
    free: str = ""  # ids of the special tokens that may stand in free text: 1-3,7
    thinks: tuple[str, str] | None = None  # around what the model thinks before it answers
    is_thinking: bool = False  # the prompt has begun it
    wants: Literal["object", "string"] = "object"  # arguments of earlier calls, as the template reads them
    names_ids: bool = False  # the id of an earlier call is written in place of its name: functions.NAME:0
    shows_tools: bool = False
    shows_calls: bool = False
    takes_results: bool = False

    def encode(self) -> str:
        """As JSON."""
        return _FORMAT.dump_json(self).decode()

    @classmethod
    def decode(cls, raw: str | bytes) -> "ToolFormat":
        """From JSON."""
        return _read_format(raw)

    def coded(self, text: str) -> str:
        """The same with a surrogate for each special token it spells."""
        return coded(text, tuple(special for special, _ in self.specials))

    def markers(self) -> dict[int, str]:
        """The special tokens that calls are written with; others of them, such as those of thoughts, are content."""
        parts = (self.begin, self.middle, self.between or "", self.end, *(self.tags.literals() if self.tags else ()))
        code = "".join(map(self.coded, parts))
        return {id_: special for at, (special, id_) in enumerate(self.specials) if chr(FIRST + at) in code}

    def written(self, calls: Sequence[tuple[str, str]]) -> str:
        """Calls of these names with these arguments, which are JSON."""
        told = (f"{name}{self.middle}{arguments}" for name, arguments in calls)
        return f"{self.begin}{(self.between or '').join(told)}{self.end}"

    def result(self, name: str, text: str) -> str:
        """What such a call gave, for templates without a turn for it."""
        return f'<tool_response name="{name}">\n{text}\n</tool_response>'

    def parts(self) -> dict[str, str]:
        """The markers one by one, for people."""
        begin, end = self.coded(self.begin), self.coded(self.end)
        between = end + begin if self.between is None else self.coded(self.between)
        call_end = commonprefix((between, end))
        call_begin = commonsuffix((begin, between.removeprefix(call_end)))
        told = {
            "block_begin": begin.removesuffix(call_begin),
            "call_begin": call_begin,
            "call_end": call_end,
            "separator": between.removeprefix(call_end).removesuffix(call_begin),
            "block_end": end.removeprefix(call_end),
            "keys": ", ".join(re.findall(r'"(\w+)": ?"?$', begin) + re.findall(r'"(\w+)": ?$', self.middle)),
        }
        return {name: spelled(part, [special for special, _ in self.specials]) for name, part in told.items()}


_FORMAT = TypeAdapter(ToolFormat)
_read_format = reader(_FORMAT)


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """What an answer with tools may be, and how to read it; travels in the job."""

    grammar: str | None  # None: nothing is constrained, or a Constraint has it
    format: ToolFormat
    tools: dict[
        str, dict[str, bool]
    ]  # those that may be called: their arguments in tags, and which are written as text
    is_first: bool  # a call can only be the whole answer
    finish: Literal["stop", "tool_calls"]  # of an answer with calls
    looked_at: dict[str, str] = field(default_factory=dict)  # schemas that are not enforced in full, as JSON

    def encode(self) -> str:
        """As JSON."""
        return _PLAN.dump_json(self).decode()

    @classmethod
    def decode(cls, raw: str | bytes) -> "ToolPlan":
        """From JSON."""
        return _read_plan(raw)


_PLAN = TypeAdapter(ToolPlan)
_read_plan = reader(_PLAN)


def own(known: ToolFormat) -> ToolFormat:
    """Ours, for models without one; all else that is known of the model stays."""
    return replace(
        known,
        family="own",
        begin='<tool_call>\n{"name": "',
        middle='", "arguments": ',
        between='}\n</tool_call>\n<tool_call>\n{"name": "',
        end="}\n</tool_call>",
        trigger="<tool_call>",
        is_bare=False,
        tags=None,
    )


def instructions(tools: Sequence[Mapping[str, Any]], format_: ToolFormat) -> str:
    """What the system says of tools where the template does not, or of calls where it cannot write them."""
    listed = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    shown = () if format_.shows_tools else ("You may call these tools:", *listed)
    tags = format_.tags
    argument = '{"ARGUMENT": VALUE}' if tags is None else f"{tags.begin}ARGUMENT{tags.text[0]}VALUE{tags.text[1]}"
    call = format_.written([("NAME", argument)]).replace(ID, "123456789").replace(INDEX, "0")
    return "\n".join((*shown, "To call a tool, write:", call))


def coded(text: str, specials: tuple[str, ...]) -> str:
    """The same with a surrogate for each special token it spells."""
    if not specials:
        return text
    return _pattern(specials).sub(lambda found: chr(FIRST + specials.index(found[0])), text)


def spelled(text: str, specials: Sequence[str]) -> str:
    """What ``coded`` was given."""
    return "".join(specials[ord(one) - FIRST] if is_special(one) else one for one in text)


def is_marker(token: Any) -> bool:
    """Whether an added token stands for itself and not for the text that it spells."""
    return bool(token.content.strip()) and bool(token.special or _MARKER.fullmatch(token.content))


def is_special(character: str) -> bool:
    """Whether it stands for a token."""
    return "\ud800" <= character <= "\udfff"


def commonprefix(texts: Collection[str]) -> str:
    """The longest that all begin with."""
    first, last = min(texts), max(texts)
    return first[
        : next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    ]


def commonsuffix(texts: Collection[str]) -> str:
    """The longest that all end with."""
    return commonprefix([text[::-1] for text in texts])[::-1]


@lru_cache(64)
def _pattern(specials: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))))
