"""Tools as a grammar: whatever the model says, its calls name tools that exist, with arguments that fit their schemas.

The grammar is llguidance's Lark. Special tokens stand in it by number, so the engine's tokenizer must have them where
the model has them, and must call special all of ``ToolFormat.specials``; markers that are text end a lazy lexeme.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import TypeAdapter

from common.constraints.lark import TEXT, literal, regex, rule_of
from common.constraints.parameters import is_beyond, kinds, rules
from common.errors import InvalidRequestError
from common.toolformat import ToolFormat, is_special, own

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_GAP = "/[ \\n]{0,4}/"  # between a thought and a call

_WORDS = ("none", "auto", "required")

Schema = dict[str, Any]
Mode = Literal["none", "auto", "required"]


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """What an answer with tools may be, and how to read it; travels in the job."""

    grammar: str | None  # None: nothing is constrained
    format: ToolFormat
    tools: dict[
        str, dict[str, bool]
    ]  # those that may be called: their arguments in tags, and which are written as text
    is_first: bool  # a call can only be the whole answer
    finish: Literal["stop", "tool_calls"]  # of an answer with calls

    def encode(self) -> str:
        """As JSON."""
        return _PLAN.dump_json(self).decode()

    @classmethod
    def decode(cls, raw: str | bytes) -> "ToolPlan":
        """From JSON."""
        return _PLAN.validate_json(raw)


_PLAN = TypeAdapter(ToolPlan)


def plan(
    tools: Sequence[Mapping[str, Any]],
    choice: Any,
    form: ToolFormat,
    *,
    lowered: Mapping[str, Schema],
    parallel: bool = True,
    answer: Schema | None = None,
) -> ToolPlan:
    """``tools`` and ``choice`` as OpenAI has them; ``answer``: the schema of an answer without calls.

    A tool that is missing in ``lowered`` has no parameters. Raises InvalidRequestError.
    """
    names = [str(tool["function"]["name"]) for tool in tools]
    mode, allowed = chosen(choice, names)
    is_named = choice not in {None, *_WORDS} if not isinstance(choice, dict) else choice.get("type") == "function"
    schemas = {name: _object(name, lowered.get(name, _NO_ARGUMENTS)) for name in allowed}
    form = _fitting(form, schemas, answer)
    if not parallel or is_named:
        form = replace(form, between=None)
    is_first = answer is not None or (form.is_bare and not (form.thinks and mode == "required"))
    return ToolPlan(
        grammar=_grammar(mode, form, schemas, answer),
        format=form,
        tools={} if mode == "none" else {name: kinds(schema, form) for name, schema in schemas.items()},
        is_first=is_first,
        finish="stop" if is_named else "tool_calls",
    )


def chosen(choice: Any, names: Sequence[str]) -> tuple[Mode, list[str]]:
    """How many calls are wanted, and of what. Raises InvalidRequestError."""
    if wrong := [name for name in names if not _NAME.fullmatch(name)]:
        raise InvalidRequestError(f"tools: {wrong[0]!r} is no name: {_NAME.pattern}.", param="tools")
    if len(set(names)) < len(names):
        raise InvalidRequestError("tools: two tools have the same name.", param="tools")
    mode, allowed = _read(choice, names)
    if unknown := [name for name in allowed if name not in names]:
        raise InvalidRequestError(f"tool_choice: there is no tool {unknown[0]!r}.", param="tool_choice")
    if not allowed and mode == "required":
        raise InvalidRequestError("tool_choice: there is no tool to call.", param="tool_choice")
    return mode if allowed else "none", list(dict.fromkeys(allowed))


def _read(choice: Any, names: Sequence[str]) -> tuple[Mode, list[str]]:
    match choice:
        case None:
            return "auto", list(names)
        case "none" | "auto" | "required":
            return choice, list(names)
        case (
            str(name) | {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}
        ):
            return "required", [name]
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(some)}} | {
            "type": "allowed_tools",
            "mode": "auto" | "required" as mode,
            "tools": list(some),
        }:
            return mode, [_name(one) for one in some]
    raise InvalidRequestError("tool_choice: this is none of its forms.", param="tool_choice")


def _name(tool: Any) -> str:
    match tool:
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            return name
    raise InvalidRequestError("tool_choice: this is no tool.", param="tool_choice")


def _object(name: str, schema: Schema) -> Schema:
    """Arguments are an object, whatever else is said of them. Raises InvalidRequestError."""
    kind = schema.get("type", "object")
    if kind != "object" and "object" not in kind:
        raise InvalidRequestError(f"Invalid schema for function '{name}': its type is not 'object'.", param="tools")
    return schema | {"type": "object"}


def _fitting(form: ToolFormat, schemas: Mapping[str, Schema], answer: Schema | None) -> ToolFormat:
    """Our own format where the model's cannot say it."""
    if form.is_bare and answer is not None:
        return own(form)  # a JSON answer could not be told from a call
    if form.tags is not None and any(is_beyond(schema, form.tags) for schema in schemas.values()):
        return own(form)
    return form


def _grammar(mode: Mode, form: ToolFormat, schemas: Mapping[str, Schema], answer: Schema | None) -> str | None:
    is_token = is_special(form.coded(form.trigger)[0])
    trigger = literal(form, form.trigger)
    match mode:
        case "none" if answer is not None:
            return _lark(f"start: {rule_of(answer)}")
        case "none":
            return _lark("start: free", *_free(form)) if is_token else None
        case "required":
            think = "think " if form.thinks else ""
            start = [f"start: {think}{trigger} after", *_thought(form), TEXT]
        case _ if answer is not None:
            start = [f"start: {rule_of(answer)} | {trigger} after"]
        case _ if form.is_bare:
            start = [f"start: free | {trigger} after", *_free(form)]
        case _ if is_token:
            start = [f"start: free ({trigger} after)?", *_free(form)]
        case _:
            others = f"(TEXT <[{form.free}]>)* " if form.free else ""
            start = [f"start: {others}(TEXT | head after)", f"head[lazy]: TEXT {trigger}", TEXT]
    return _lark(*start, *_calls(form, schemas))


def _lark(*rules: str) -> str:
    return "\n".join(("%llguidance {}", *rules, ""))


def _free(form: ToolFormat) -> Iterator[str]:
    """Text in which no call begins: ``free``."""
    code = form.coded(form.trigger)
    lead, said = (code[0], code[1:]) if is_special(code[0]) else ("", code)
    runs = [f"<[{form.free}]> TEXT"] if form.free else []
    if lead and said:
        runs.append(f"{literal(form, form.trigger).split(' ')[0]} OTHER")
    more = f" ({' | '.join(runs)})*" if runs else ""
    yield f"free: {'OTHER' if form.is_bare else 'TEXT'}{more}"
    yield TEXT
    if said:
        yield f"OTHER: /(.|\\n)*/ & ~/{regex(said)}(.|\\n)*/"


def _thought(form: ToolFormat) -> Iterator[str]:
    """What the model thinks before a call that must come: ``think``."""
    if form.thinks is None:
        return
    begin, end = (literal(form, tag) for tag in form.thinks)
    yield f"think: thought {_GAP}" if form.is_thinking else f"think: ({begin} thought {_GAP})?"
    if is_special(form.coded(form.trigger)[0]):
        yield "THOUGHT: /(.|\\n)*/"
    else:  # or it could not be told where the call begins
        yield f"THOUGHT: /(.|\\n)*/ & ~/(.|\\n)*{regex(form.trigger)}(.|\\n)*/"
    lazy = "" if is_special(form.coded(form.thinks[1])[0]) else "[lazy]"
    yield f"thought{lazy}: THOUGHT {end}"


def _calls(form: ToolFormat, schemas: Mapping[str, Schema]) -> Iterator[str]:
    """What follows the trigger: ``after``."""
    rest = literal(form, form.begin.removeprefix(form.trigger))
    more = "" if form.between is None else f"({literal(form, form.between)} one)*"
    yield f"after: {rest} one {more} {literal(form, form.end)}"
    yield f"one: {' | '.join(f'c{at}' for at in range(len(schemas)))}"
    for at, (name, schema) in enumerate(schemas.items()):
        head = f"c{at}: {literal(form, name + form.middle)}"
        if form.tags is None:
            yield f"{head} {rule_of(schema)}"
        else:
            yield from rules(head, f"c{at}", schema, form)
