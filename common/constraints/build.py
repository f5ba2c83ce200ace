"""Requests' constraints, made into data; grammars are tried on the engine, so call these where it may fail."""

import json
import re
from typing import Any

from common.constraints.check import compiled
from common.constraints.limits import bounded, bounded_choices, bounded_grammar, bounded_regex
from common.constraints.lower import lower
from common.constraints.patterns import PatternError, refuse_beyond_regular
from common.constraints.spec import Constraint, Kind, Note, RefusedConstraintError, Wanted, ended, mode_of

WHITESPACE = r"( |\n[ ]{0,20})?"  # natural, compact and pretty JSON, and no endless spaces
_GIVEN_UP = (  # what the engine says when it cannot, and what is then left to the check at the end
    ("not disjoint", {"patternProperties"}),
    ("min/maxProperties", {"minProperties", "maxProperties"}),
    ("circular references", {"$ref"}),
    ("too many digits", {"multipleOf"}),
    ("float range", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    ("regex", {"pattern", "patternProperties"}),
    ("too large", {"oneOf", "if", "not"}),
    ("too large", {"dependencies", "dependentRequired", "dependentSchemas"}),
    ("too large", {"allOf"}),
)


def built(wanted: Wanted) -> Constraint:
    """What a request wants. Raises RefusedConstraintError."""
    match wanted.kind:
        case "json":
            return from_schema(wanted.source, strict=wanted.is_strict, whitespace=wanted.spaces)
        case "choice":
            return from_choice(tuple(wanted.source))
        case "regex":
            return from_regex(wanted.source)
    return from_grammar(wanted.source)


def from_schema(
    schema: Any, *, strict: bool = False, whitespace: str | None = None, formats: bool = True
) -> Constraint:
    """JSON of this schema. Raises RefusedConstraintError."""
    lowered, notes, asked = enforceable(schema, strict=strict, whitespace=whitespace, formats=formats)
    return Constraint("json", _json_grammar(lowered), mode_of(notes), notes, asked)


def enforceable(
    schema: Any, *, strict: bool = False, whitespace: str | None = None, formats: bool = True
) -> tuple[dict[str, Any], tuple[Note, ...], str]:
    """A schema as the engine takes it, what was done for that, and the client's as JSON.

    Raises RefusedConstraintError.
    """
    asked = bounded(schema)
    pattern = WHITESPACE if whitespace is None else bounded_regex(whitespace)
    given_up: frozenset[str] = frozenset()
    while True:
        lowered, notes = lower(asked, strict=strict, formats=formats, given_up=given_up)
        taken = lowered | {"x-guidance": {"whitespace_pattern": pattern}}
        more = _hopeless(_json_grammar(taken), given_up)
        if not more:
            return taken, notes, json.dumps(asked, ensure_ascii=False)
        given_up |= more


def quoted(text: str) -> str:
    """As a string of the engine's Lark, whose lexer stops at DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def from_regex(pattern: str) -> Constraint:
    """A text that it matches as a whole; Rust's syntax, ECMA's digits and words. Raises RefusedConstraintError."""
    import llguidance

    try:
        refuse_beyond_regular(bounded_regex(pattern))
    except PatternError as error:
        why = f"regex: {error.what} cannot be enforced (at position {error.position})."
        raise RefusedConstraintError(why, "regex") from error
    return from_lark("regex", f"start: /{llguidance.regex_to_lark(pattern, 'dw')}/" if pattern else 'start: ""')


def from_choice(choices: tuple[str, ...]) -> Constraint:
    """One of these texts. Raises RefusedConstraintError."""
    options = " | ".join(map(quoted, bounded_choices(choices)))
    return from_lark("choice", f"start: {options}")


def from_grammar(text: str) -> Constraint:
    """Lark, or llama.cpp's GBNF. Raises RefusedConstraintError."""
    import llguidance

    if re.search(r"^\s*[\w-]+\s*::=", bounded_grammar(text), re.MULTILINE):
        try:
            text = llguidance.grammar_from("gbnf", text)
        except Exception as error:  # the converter names no error of its own
            raise RefusedConstraintError(f"grammar: {ended(str(error))}", "grammar") from error
    return from_lark("grammar", text)


def from_lark(kind: Kind, text: str) -> Constraint:
    """A grammar of ours."""
    return Constraint(kind, json.dumps({"grammars": [{"lark_grammar": text}]}, ensure_ascii=False))


def _json_grammar(schema: dict[str, Any]) -> str:
    return json.dumps({"grammars": [{"json_schema": schema}]}, ensure_ascii=False, separators=(",", ":"))


def _hopeless(grammar: str, given_up: frozenset[str]) -> frozenset[str]:
    """More keywords without which the engine may take it."""
    said = compiled(grammar, ()).get_error()
    return frozenset(next((names for sign, names in _GIVEN_UP if sign in said and not names <= given_up), ()))
