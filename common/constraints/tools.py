"""Tools as a grammar: whatever the model says, its calls name tools that exist, with arguments that fit their schemas.

The grammar is llguidance's Lark. Special tokens stand in it by number, so the engine's tokenizer must have them where
the model has them, and must call special all of ``ToolFormat.specials``; markers that are text end a lazy lexeme.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from common.constraints.lark import TEXT, literal, regex, rule_of
from common.constraints.parameters import is_beyond, kinds, rules
from common.errors import InvalidRequestError
from common.toolchoice import Mode, chosen, names_one
from common.toolformat import ToolFormat, ToolPlan, is_special, own

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_GAP = "/[ \\n]{0,4}/"  # between a thought and a call

Schema = dict[str, Any]


def plan(
    tools: Sequence[Mapping[str, Any]],
    choice: Any,
    form: ToolFormat,
    *,
    lowered: Mapping[str, Schema],
    parallel: bool = True,
    answer: Schema | None = None,
) -> ToolPlan:
    """``tools`` and ``choice`` as OpenAI has them; ``answer``: the schema of an answer without calls, if it may come.

    A tool that is missing in ``lowered`` has no parameters. Raises InvalidRequestError.
    """
    names = [str(tool["function"]["name"]) for tool in tools]
    mode, allowed = chosen(choice, names)
    answer = None if mode == "required" else answer
    is_named = names_one(choice)
    schemas = {name: _object(names.index(name), name, lowered.get(name, _NO_ARGUMENTS)) for name in allowed}
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


def _object(at: int, name: str, schema: Schema) -> Schema:
    """Arguments are an object, whatever else is said of them. Raises InvalidRequestError."""
    kind = schema.get("type", "object")
    if kind != "object" and "object" not in kind:
        raise InvalidRequestError(
            f"Invalid schema for function '{name}': its type is not 'object'.",
            param=f"tools[{at}].function.parameters",
            code="invalid_function_parameters",
        )
    return schema | {"type": "object"}


def _fitting(form: ToolFormat, schemas: Mapping[str, Schema], answer: Schema | None) -> ToolFormat:
    """Our own format where the model's cannot say it."""
    if form.is_bare and answer is not None:
        return own(form)  # a JSON answer could not be told from a call
    if form.tags is not None and any(is_beyond(schema, form) for schema in schemas.values()):
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
