"""Bounds that a constraint keeps before anything looks at it closely; nothing here recurses."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from common.constraints.dialect import refuse_misspelt
from common.constraints.document import Document, escaped, subschemas
from common.constraints.spec import RefusedConstraintError

BYTES = 256 * 2**10
DEPTH = 64
NODES = 20_000
VALUES = 5_000  # of all const and enum
PROPERTIES = 5_000
OPTIONAL = 1_000  # properties of one object
PATTERN = 2_000
REFERENCES = 200  # the longest chain
REGEX = 16 * 2**10
CHOICES = 5_000
GRAMMAR = 64 * 2**10
RULES = 1_000

_SURROGATE = re.compile("[\ud800-\udfff]")
_RULE = re.compile(r"^\s*[?!]?[A-Za-z_][\w.-]*(?:\[[^\]]*\])?\s*(?:::=|:)", re.MULTILINE)
_JSON = re.compile(r"%json\s*")
_SPACES = {"item_separator", "key_separator", "whitespace_flexible", "whitespace_pattern"}  # of the engine's orders
_IN_PLACE = ("allOf", "anyOf", "else", "if", "not", "oneOf", "then", "dependencies", "dependentSchemas")


def bounded(schema: Any) -> Any:
    """A copy without ``x-guidance``, known to keep every bound. Raises RefusedConstraintError."""
    _bound_values(schema)
    try:
        raw = json.dumps(schema, allow_nan=False)
    except ValueError as error:
        raise RefusedConstraintError("NaN and infinity are no JSON.") from error
    _at_most(len(raw), BYTES, "bytes", "", "")
    copy = _without_guidance(json.loads(raw))
    if not isinstance(copy, dict | bool):
        raise RefusedConstraintError("A schema is an object or a boolean.")
    document = Document(copy)
    refuse_misspelt(document)
    _bound_keywords(document)
    _bound_references(document)
    return copy


def bound_tools(tools: Any) -> None:
    """All of them together, before each is looked at. Raises RefusedConstraintError."""
    _bound_values(tools)
    _at_most(len(json.dumps(tools)), BYTES, "bytes", "", "")


def bounded_regex(pattern: str) -> str:
    """The same. Raises RefusedConstraintError."""
    _refuse_signs(pattern, "regex")
    _at_most(len(pattern.encode()), REGEX, "bytes", "regex", "")
    return pattern


def bounded_choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    """The same. Raises RefusedConstraintError."""
    if not choices:
        raise RefusedConstraintError("choice: there is nothing to choose from.", "choice")
    _at_most(len(choices), CHOICES, "values", "choice", "")
    _at_most(sum(map(len, choices)), BYTES, "characters", "choice", "")
    for at, choice in enumerate(choices):
        _refuse_signs(choice, "choice", f"/{at}")
    return choices


def bounded_grammar(text: str) -> str:
    """The same. Raises RefusedConstraintError."""
    _refuse_signs(text, "grammar")
    _at_most(len(text.encode()), GRAMMAR, "bytes", "grammar", "")
    _at_most(len(_RULE.findall(text)), RULES, "rules", "grammar", "")
    for found in _JSON.finditer(text):
        _bound_json(text[found.end() :])
    return text


def _bound_json(text: str) -> None:
    """A schema within a grammar: the engine reads it as it stands, so its bounds hold here, too."""
    try:
        schema = json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return  # the engine says so, unless it is part of a string or a remark
    orders = schema.get("x-guidance", {}) if isinstance(schema, dict) else {}
    if not isinstance(orders, dict) or not orders.keys() <= _SPACES:
        raise RefusedConstraintError("grammar: x-guidance may only say something of spaces.", "grammar")
    try:
        bounded(schema)
    except RefusedConstraintError as refused:
        raise RefusedConstraintError(f"grammar: in %json: {refused.message}", "grammar", refused.pointer) from None


def _at_most(count: int, most: int, what: str, keyword: str, pointer: str) -> None:
    if count > most:
        raise RefusedConstraintError(f"{keyword or 'schema'}: at most {most} {what}.", keyword, pointer)


def _refuse_signs(text: str, keyword: str, pointer: str = "") -> None:
    if "\0" in text or _SURROGATE.search(text):
        raise RefusedConstraintError(f"{keyword}: neither NUL nor half a character.", keyword, pointer)


def _bound_values(root: Any) -> None:
    """Of any JSON: how deep, how many, and which characters."""
    waiting, nodes = [(root, 1, "")], 0
    while waiting:
        value, depth, pointer = waiting.pop()
        nodes += 1
        _at_most(nodes, NODES, "values", "", pointer)
        _at_most(depth, DEPTH, "levels", "", pointer)
        if isinstance(value, str):
            _refuse_signs(value, "schema", pointer)
        elif isinstance(value, dict):
            for name in value:
                _refuse_signs(name, "schema", pointer)
            waiting += [(one, depth + 1, f"{pointer}/{escaped(name)}") for name, one in value.items()]
        elif isinstance(value, list):
            waiting += [(one, depth + 1, f"{pointer}/{at}") for at, one in enumerate(value)]


def _without_guidance(root: Any) -> Any:
    """It would be an order to the engine."""
    for schema in _schemas(root):
        schema.pop("x-guidance", None)
    return root


def _schemas(root: Any) -> Iterator[dict[str, Any]]:
    waiting = [root]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, dict):
            yield schema
            waiting += [one for _, one in subschemas(schema)]


def _bound_keywords(document: Document) -> None:
    values: Counter[str] = Counter()
    for schema in document.reached:
        for keyword, bound in _BOUNDS.items():
            if keyword in schema:
                bound(schema, document.pointer(schema), values)


def _bound_enum(schema: dict[str, Any], pointer: str, total: Counter[str]) -> None:
    total["values"] += len(schema["enum"])
    _at_most(total["values"], VALUES, "values in all", "enum", f"{pointer}/enum")


def _bound_properties(schema: dict[str, Any], pointer: str, total: Counter[str]) -> None:
    names, required = schema["properties"], schema.get("required")
    total["properties"] += len(names)
    _at_most(total["properties"], PROPERTIES, "in all", "properties", f"{pointer}/properties")
    optional = len(names.keys() - set(required) if isinstance(required, list) else names)
    _at_most(optional, OPTIONAL, "optional ones in an object", "properties", f"{pointer}/properties")


def _bound_pattern(schema: dict[str, Any], pointer: str, _total: Counter[str]) -> None:
    _at_most(len(schema["pattern"]), PATTERN, "characters", "pattern", f"{pointer}/pattern")


def _bound_pattern_properties(schema: dict[str, Any], pointer: str, _total: Counter[str]) -> None:
    for pattern in schema["patternProperties"]:
        _at_most(len(pattern), PATTERN, "characters", "patternProperties", f"{pointer}/patternProperties")


_Bound = Callable[[dict[str, Any], str, Counter[str]], None]
_BOUNDS: dict[str, _Bound] = {
    "enum": _bound_enum,
    "pattern": _bound_pattern,
    "patternProperties": _bound_pattern_properties,
    "properties": _bound_properties,
}


def _bound_references(document: Document) -> None:
    """No endless reference that consumes nothing, and no chain so long that the engine's stack ends first."""
    edges = _edges(document)
    in_place = {start: [end for end, is_in_place in ends if is_in_place] for start, ends in edges.items()}
    if len(_heights(in_place, set())) < len(edges):
        raise RefusedConstraintError("$ref: it leads back to itself without a step into a value.", "$ref")
    targets = {id(document.resolve(one, one["$ref"])) for one in document.reached if "$ref" in one}
    heights = _heights({start: [end for end, _ in ends] for start, ends in edges.items()}, targets)
    rest = len(targets - heights.keys())  # those in cycles and before them: at worst one long chain
    _at_most(rest + max(heights.values(), default=0), REFERENCES, "references in a chain", "$ref", "")


def _edges(document: Document) -> dict[int, list[tuple[int, bool]]]:
    """From each subschema to those it leads to at once; true where that consumes nothing."""
    edges: dict[int, list[tuple[int, bool]]] = {}
    for schema in document.reached:
        ends = [(one, step.split("/")[1] in _IN_PLACE) for step, one in subschemas(schema)]
        if "$ref" in schema:
            ends.append((document.resolve(schema, schema["$ref"]), True))
        edges[id(schema)] = [(id(end), is_in_place) for end, is_in_place in ends if isinstance(end, dict)]
    return edges


def _heights(edges: dict[int, list[int]], counted: set[int]) -> dict[int, int]:
    """The most counted ones on a way from each that leads into no cycle."""
    back: dict[int, list[int]] = {}
    for start, ends in edges.items():
        for end in ends:
            back.setdefault(end, []).append(start)
    left = {start: len(ends) for start, ends in edges.items()}
    heights = {start: int(start in counted) for start, count in left.items() if not count}
    ready = list(heights)
    while ready:
        end = ready.pop()
        for start in back.get(end, ()):
            left[start] -= 1
            if not left[start]:
                heights[start] = int(start in counted) + max(heights[one] for one in edges[start])
                ready.append(start)
    return heights
