"""What a request with tools becomes: a grammar, a plan to read answers by, and words for the prompt. In the child."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from common.constraints.build import built, enforceable, from_lark, from_schema
from common.constraints.check import check
from common.constraints.dialect import validator
from common.constraints.limits import bound_tools
from common.constraints.spec import Constraint, Note, RefusedConstraintError, Wanted, mode_of
from common.constraints.tools import plan
from common.door.template import RefusedError
from common.errors import InvalidRequestError
from common.toolchoice import chosen
from common.toolformat import ToolFormat, ToolPlan, instructions

Tool = Mapping[str, Any]


def planned(asked: Mapping[str, Any], form: ToolFormat, wanted: Wanted | None) -> tuple[Constraint | None, ToolPlan]:
    """Of tools, choice, and whether there may be several calls; ``wanted`` is an answer without calls.

    Raises RefusedError, and RefusedConstraintError for what is wanted.
    """
    tools: Sequence[Tool] = asked["tools"]
    _bound(tools)
    lowered, notes, looked_at = _lowered(tools)
    answer, of_answer, schema = (None, (), None) if wanted is None or wanted.kind != "json" else _answer(wanted)
    try:
        made = plan(tools, asked["choice"], form, lowered=lowered, parallel=asked["parallel"], answer=answer)
        must_call = chosen(asked["choice"], [tool["function"]["name"] for tool in tools])[0] == "required"
    except InvalidRequestError as error:
        raise RefusedError(error.message, param=error.param, code=error.actual_code) from None
    if must_call:
        of_answer, schema = (), None
    made = replace(made, looked_at={name: one for name, one in looked_at.items() if name in made.tools})
    if not made.tools and wanted is not None:
        return built(wanted), replace(made, grammar=None)
    if made.grammar is None:
        return None, made
    all_notes = (*of_answer, *(note for name in made.tools for note in notes.get(name, ())))
    constraint = from_lark("tools", made.grammar)
    constraint = replace(constraint, mode=mode_of(all_notes), notes=all_notes, schema=schema)
    return constraint, replace(made, grammar=None)


def _bound(tools: Sequence[Tool]) -> None:
    try:
        bound_tools(tools)
    except RefusedConstraintError as refused:
        raise RefusedError(f"tools: {refused.message}", param="tools") from None


def _answer(wanted: Wanted) -> tuple[dict[str, Any], tuple[Note, ...], str]:
    return enforceable(wanted.source, strict=wanted.is_strict, whitespace=wanted.spaces)


def _lowered(
    tools: Sequence[Tool],
) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[Note, ...]], dict[str, str]]:
    """Parameters as the engine takes them, what was done for that, and those that must be looked at in the end."""
    lowered, notes, looked_at = dict[str, dict[str, Any]](), dict[str, tuple[Note, ...]](), dict[str, str]()
    for at, tool in enumerate(tools):
        function, place = tool["function"], f"/tools/{at}/function/parameters"
        if function.get("parameters") is None:
            continue
        name = function["name"]
        try:
            lowered[name], found, asked = enforceable(function["parameters"], strict=bool(function.get("strict")))
            if mode_of(found) == "wide":
                validator(json.loads(asked))
                looked_at[name] = asked
        except RefusedConstraintError as refused:
            raise _refused(name, at, refused.message, refused.pointer) from None
        except ValueError as error:  # of the validator, which cannot look at it
            raise _refused(name, at, str(error).partition("\n")[0], "") from None
        notes[name] = tuple(replace(note, pointer=place + note.pointer) for note in found)
    return lowered, notes, looked_at


def check_each(tools: Sequence[Tool]) -> None:
    """Each tool's parameters alone, where all together are too much. Raises RefusedError."""
    for at, tool in enumerate(tools):
        function = tool["function"]
        try:
            if function.get("parameters") is not None:
                check(from_schema(function["parameters"] | {"type": "object"}))
        except RefusedConstraintError as refused:
            raise _refused(function["name"], at, refused.message.removeprefix("json: "), refused.pointer) from None


def _refused(name: str, at: int, why: str, pointer: str) -> RefusedError:
    told = f" (at {pointer})" if pointer and pointer not in why else ""
    return RefusedError(
        f"Invalid schema for function '{name}': {why}{told}",
        param=f"tools[{at}].function.parameters",
        code="invalid_function_parameters",
    )


def words_of(tools: Sequence[Tool], form: ToolFormat) -> Iterator[str]:
    """What the system must say of tools, because the template does not."""
    if form.family == "own" or not form.shows_tools:
        yield instructions(tools, form)


def for_template(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """As templates take them for granted: with a description and parameters, and nothing beside."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool["function"]["name"],
                "description": tool["function"].get("description", ""),
                "parameters": {"type": "object", "properties": {}} | tool["function"].get("parameters", {}),
            },
        }
        for tool in tools
    ]
