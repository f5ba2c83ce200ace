"""How a model writes calls of tools, asked of its chat template.

It writes calls of names that nobody has, and what stands around these is its format. A worker asks when it loads the
model; the answer stands in the card.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Literal

from common.toolformat import (
    FIRST,
    ID,
    INDEX,
    Family,
    Tags,
    ToolFormat,
    commonprefix,
    commonsuffix,
    is_marker,
    own,
    spelled,
)

_NAMES = ("qnameqa", "qnameqb", "qnameqc")
_KEYS, _VALUES, _NUMBERS = ("qkeyqa", "qkeyqb"), ("qvalueqa", "qvalueqb"), (735011, 735012)
_IDS = ("qidqidqiA", "qidqidqiB", "qidqidqiC")  # some templates want nine letters or digits
_SPEAKING = tuple(
    f"functions.{name}:{at}" for at, name in enumerate(_NAMES)
)  # others write the id in place of the name
_TEXTS = dict(zip(_KEYS, _VALUES, strict=True))
_COUNTS = dict(zip(_KEYS, _NUMBERS, strict=True))
_PARAMETERS = {"type": "object", "properties": {key: {"type": "string"} for key in _KEYS}, "required": list(_KEYS)}
_TOOLS = [
    {"type": "function", "function": {"name": name, "description": "qtoolq", "parameters": _PARAMETERS}}
    for name in _NAMES
]
_USER = {"role": "user", "content": "qquestionq"}
_OURS = ("<tool_call>", "</tool_call>")
_THOUGHT = re.compile(r"([<\[])([\w:|]*(?:think|reason)\w*)([>\]])", re.IGNORECASE)
_OPENING = re.compile(r"[^\n>\]\ud800-\udfff\ue000\ue001]+[\n>\]]?")
_BARE = re.compile(r'[\[\s]*\{\s*"')
_BREAK = re.compile("[\ud800-\udfff\ue000\ue001]")
_LEAST = 3  # characters of a marker

Wants = Literal["object", "string"]
_WANTS: tuple[Wants, ...] = ("object", "string")
Turn = dict[str, Any]
Arguments = dict[str, Any]


def found(tokenizer: Any, end_ids: Collection[int] = ()) -> ToolFormat:
    """What the template tells, or our own format; ``end_ids`` end an answer."""
    probe = _Probe(tokenizer, frozenset(end_ids))
    known = probe.known()
    ways = [(wants, ids) for ids in (_IDS, _SPEAKING) for wants in _WANTS]
    plain = (form for wants, ids in ways if (form := probe.plain(known, wants, ids)) is not None)
    return next(plain, None) or probe.tagged(known) or own(known)


class _Probe:
    """One template."""

    def __init__(self, tokenizer: Any, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        markers = {at: one.content for at, one in tokenizer.added_tokens_decoder.items() if is_marker(one)}
        self._ids = {content: at for at, content in markers.items()}
        self._free = {at for at, content in markers.items() if at not in ends and content not in _OURS}
        self._code = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))) or "(?!)")
        self._met: dict[str, str] = {}  # special tokens, and the surrogates that stand for them
        self._ends = {self._coded(special) for special, at in self._ids.items() if at in ends}
        self._base = self._text(_USER)
        opened = self._text(_USER, opens=True)
        self._opener = opened.removeprefix(self._base) if opened.startswith(self._base) else ""
        self._thinks = self._thought(self._opener)
        tags = tuple(map(self._coded, self._thinks or ()))
        self._is_thinking = bool(tags) and tags[0] in self._opener.rpartition(tags[1])[2]
        self._content = self._turn({"role": "assistant", "content": "qcontentq"})

    def known(self) -> ToolFormat:
        """All but the format of calls."""
        result = {"role": "tool", "content": "qresultq", "tool_call_id": _IDS[0], "name": _NAMES[0]}
        calls = [_said(_calls(1, _TEXTS, wants, _IDS)) for wants in _WANTS]
        used = [tag for tag in (*_OURS, *(self._thinks or ())) if tag in self._ids]
        return ToolFormat(
            family="own",
            begin="",
            middle="",
            between=None,
            end="",
            trigger="",
            specials=tuple((tag, self._ids[tag]) for tag in used),
            free=_ranges(self._free),
            thinks=self._thinks,
            is_thinking=self._is_thinking,
            shows_tools="qtoolq" in self._base and _KEYS[0] in self._base,
            takes_results=any("qresultq" in self._text(_USER, said, result) for said in calls),
        )

    def plain(self, known: ToolFormat, wants: Wants, ids: Sequence[str]) -> ToolFormat | None:
        """Arguments as JSON, if that is how the template writes them."""

        def cut(count: int) -> list[str] | None:
            return _cut(self._turn(_said(_calls(count, _TEXTS, wants, ids))), count)

        one, three = cut(1), cut(3)
        if one is None:
            return None
        begin, middle, end = one
        between = None
        if three is not None and three[0] == begin:
            middles, betweens = _merged(three[1::2]), _merged(three[2:-1:2])
            if middles is not None and betweens is not None and three[-1] == end:
                middle, between = middles, betweens
        family: Family = "array" if re.search(r"\[\s*\{", begin) else "object" if '"' in middle else "named"
        form = replace(known, family=family, wants=wants, names_ids=ids is _SPEAKING)
        return self._finished(form, begin, middle, between, end)

    def tagged(self, known: ToolFormat) -> ToolFormat | None:
        """Arguments in tags: what differs between strings, numbers, and nothing at all is the tags."""
        one = _around(self._turn(_said(_calls(1, _TEXTS, "object", _IDS))), _anchors(1, _VALUES))
        two = _around(self._turn(_said(_calls(1, _COUNTS, "object", _IDS))), _anchors(1, _NUMBERS))
        none = _around(self._turn(_said(_calls(1, {}, "object", _IDS))), _NAMES[:1])
        if one is None or two is None or none is None:
            return None
        end = commonsuffix([self._closed(some[-1]) for some in (one, two, none)]).removeprefix(">")
        opening = self._closed(none[1]).removesuffix(end)
        key = one[1].removeprefix(opening)
        (after, separator), (after_json, _) = (
            (closed := self._closed(some[-1]).removesuffix(end), some[3].removeprefix(closed).removesuffix(key))
            for some in (one, two)
        )
        written = [
            [none[0], opening + key, before, tail + separator + key, before]
            for before, tail in ((one[2], after), (two[2], after_json))
        ]
        numbers_end = [
            text for text in (after_json + separator + key, after_json + end) if not re.match(r"[^-+.\w]", text)
        ]
        if written != [one[:-1], two[:-1]] or numbers_end or not (after and end and one[2] and two[2]):
            return None
        tags = Tags(key, (one[2], after), (two[2], after_json), separator)
        three = _around(self._turn(_said(_calls(3, _TEXTS, "object", _IDS))), _anchors(3, _VALUES))
        between = _merged(three[5:-1:5]) if three is not None and three[:5] == one[:5] else None
        between = between.removeprefix(after) if between is not None and between.startswith(after) else None
        return self._finished(replace(known, family="tagged", tags=tags), one[0], opening, between, end)

    def _finished(self, form: ToolFormat, begin: str, middle: str, between: str | None, end: str) -> ToolFormat | None:
        """With what tells a call from text; special tokens are spelled again."""
        begin, end = self._apart(begin.lstrip()), self._closed(end)
        trigger, is_bare = self._trigger(begin)
        if not trigger or any(name in part for part in (begin, middle, between or "", end) for name in _NAMES):
            return None  # or the name is written once more
        if between is not None and not self._ends.isdisjoint(between):
            between = None  # the next call would be another answer
        parts = (begin, middle, between or "", end, *(form.tags.literals() if form.tags else ()))
        used = {special for special, one in self._met.items() if any(one in part for part in parts)}
        lead = self._spelled(trigger[0])
        return replace(
            form,
            begin=self._spelled(begin),
            middle=self._spelled(middle),
            between=None if between is None else self._spelled(between),
            end=self._spelled(end),
            trigger=self._spelled(trigger),
            is_bare=is_bare,
            tags=form.tags and self._spelled_tags(form.tags),
            specials=tuple((one, self._ids[one]) for one in sorted(used | {one for one, _ in form.specials})),
            free=_ranges(self._free - {self._ids.get(lead, -1)}),
            shows_calls=True,
        )

    def _apart(self, begin: str) -> str:
        """Without what an answer in words says as well, up to the special token that it does not say next."""
        cuts = [at for at in range(1, len(begin)) if self._is_token(begin[at]) and self._is_token(begin[at - 1])]
        shared = next((at for at in reversed(cuts) if begin[:at] in self._content), 0)
        return self._apart(begin[shared:]) if shared else begin

    def _trigger(self, begin: str) -> tuple[str, bool]:
        """The first part of a call, and whether it only tells that where it stands first."""
        if not begin:
            return "", False
        if self._is_token(begin[0]):
            if begin[0] not in self._content:
                return begin[0], False
            lead = begin[0] + _BREAK.split(begin[1:])[0]
            return (lead if len(lead) > 1 else ""), False
        if _BARE.match(begin):
            return _BREAK.split(begin)[0], True
        opening = _OPENING.match(begin)
        return (opening[0] if opening and len(opening[0].strip()) >= _LEAST else ""), False

    def _turn(self, said: Turn) -> str:
        """What the model writes in such a turn."""
        text = self._text(_USER, said)
        if not self._base or not text.startswith(self._base):
            return ""
        text, opener = text.removeprefix(self._base), self._opener
        if self._thinks:
            begin, end = map(self._coded, self._thinks)
            opener = opener.partition(begin)[0]
        text = text[len(commonprefix((opener, text))) :]
        if self._thinks:
            text = re.sub(rf"\A\s*{re.escape(begin)}.*?{re.escape(end)}", "", text, flags=re.DOTALL)
        for id_ in _IDS:
            text = text.replace(id_, ID)
        return text

    def _closed(self, tail: str) -> str:
        """The end of a turn without what ends all turns."""
        if self._ends:
            for at, one in enumerate(tail):
                if one in self._ends:
                    return tail[:at]
        closing = self._content.rpartition("qcontentq")[2]
        return tail.removesuffix(commonsuffix((tail, closing)))

    def _thought(self, opener: str) -> tuple[str, str] | None:
        """The tags around the model's thoughts."""
        template = self._tokenizer.chat_template or ""
        source = template if isinstance(template, str) else "\n".join(template.values())
        for tag in _THOUGHT.finditer(source + self._spelled(opener)):
            closing = f"{tag[1]}/{tag[2]}{tag[3]}"
            if closing in source:
                return tag[0], closing
        return None

    def _text(self, *turns: Turn, opens: bool = False) -> str:
        """The conversation, its special tokens coded; nothing if the template refuses it."""
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(turns), tools=_TOOLS, add_generation_prompt=opens, tokenize=False
            )
        except Exception:  # noqa: BLE001  a template is a program of somebody else's and fails as it likes
            return ""
        return self._coded(text)

    def _coded(self, text: str) -> str:
        return self._code.sub(lambda found: self._met.setdefault(found[0], chr(FIRST + len(self._met))), text)

    def _spelled(self, text: str) -> str:
        return spelled(text, tuple(self._met))

    def _spelled_tags(self, tags: Tags) -> Tags:
        begin, text, text_end, json_, json_end, separator = map(self._spelled, tags.literals())
        return Tags(begin, (text, text_end), (json_, json_end), separator)

    def _is_token(self, one: str) -> bool:
        return one in self._met.values()


def _said(calls: list[Turn]) -> Turn:
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _calls(count: int, arguments: Arguments, wants: Wants, ids: Sequence[str]) -> list[Turn]:
    told = json.dumps(arguments) if wants == "string" else arguments
    return [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": told}}
        for id_, name in list(zip(ids, _NAMES, strict=True))[:count]
    ]


def _anchors(count: int, values: Sequence[Any]) -> list[str]:
    inner = [str(one) for pair in zip(_KEYS, values, strict=True) for one in pair]
    return [anchor for name in _NAMES[:count] for anchor in (name, *inner)]


def _cut(turn: str, count: int) -> list[str] | None:
    """What stands around names and arguments that are JSON."""
    anchors, at = list[str](), 0
    for name in _NAMES[:count]:
        at = turn.find(name, at)
        arguments = next(_json(turn, at, _TEXTS), None) if at >= 0 else None
        if arguments is None:
            return None
        anchors += [name, arguments]
        at = turn.index(arguments, at) + len(arguments)
    return _around(turn, anchors)


def _json(text: str, at: int, wanted: Arguments) -> Iterator[str]:
    while (at := text.find("{", at)) >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
        except ValueError:
            value, end = None, at
        if value == wanted:
            yield text[at:end]
        at += 1


def _around(turn: str, anchors: Sequence[str]) -> list[str] | None:
    parts = list[str]()
    for anchor in anchors:
        part, met, turn = turn.partition(anchor)
        if not met:
            return None
        parts.append(part)
    return [*parts, turn]


def _merged(texts: Sequence[str]) -> str | None:
    """These as one: where they only count, a number."""
    columns = list(zip(*(re.split(r"(\d+)", text) for text in texts), strict=False))
    if len({len(re.split(r"(\d+)", text)) for text in texts}) != 1:
        return None
    merged = [
        column[0]
        if len(set(column)) == 1
        else INDEX
        if all(one.isdigit() for one in column) and len({int(one) - at for at, one in enumerate(column)}) == 1
        else None
        for column in columns
    ]
    return None if None in merged else "".join(one or "" for one in merged)


def _ranges(ids: Collection[int]) -> str:
    """As grammars have them: 1-3,7."""
    runs = ([at for _, at in run] for _, run in groupby(enumerate(sorted(ids)), key=lambda pair: pair[1] - pair[0]))
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
