"""Whether two schemas can be proved to have no value in common; formats prove nothing."""

from collections.abc import Iterator
from typing import Any

from common.constraints.document import Document

TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})
_DEPTH = 6
_MOST = 64  # values of an enum, or branches, that we compare one by one


def type_of(value: Any) -> str:
    """JSON's name of it."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def is_same(one: Any, other: Any) -> bool:
    """As JSON values: 1 is 1.0, and true is neither."""
    if type_of(one) != type_of(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[name], other[name]) for name in one)
    return bool(one == other)


def values_of(schema: dict[str, Any]) -> list[Any] | None:
    """All that const or enum leave, or None for no such bound."""
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else None


def types_of(schema: dict[str, Any]) -> frozenset[str]:
    """The types that these keywords alone leave; an integer is a number."""
    declared = schema.get("type")
    names = [declared] if isinstance(declared, str) else declared if isinstance(declared, list) else TYPES
    types = frozenset("number" if name == "integer" else name for name in names)
    values = values_of(schema)
    return types if values is None else types & frozenset(map(type_of, values))


def are_disjoint(document: Document, one: Any, other: Any, depth: int = _DEPTH) -> bool:
    """True only where it is proved."""
    if one is False or other is False:
        return True
    if one is True or other is True or not depth:
        return False
    left, right = list(_parts(document, one, depth)), list(_parts(document, other, depth))
    return (
        _types_differ(left, right)
        or any(_branches_differ(document, part, other, depth) for part in left)
        or any(_branches_differ(document, part, one, depth) for part in right)
        or any(_values_differ(a, b) for a in left for b in right)
        or _objects_differ(document, left, right, depth)
    )


def _parts(document: Document, schema: Any, depth: int) -> Iterator[dict[str, Any]]:
    """The schema and all that it demands besides."""
    if not isinstance(schema, dict) or not depth:
        return
    if "$ref" in schema:
        yield from _parts(document, document.resolve(schema, schema["$ref"]), depth - 1)
        if document.overrides(schema):
            return
    yield schema
    for part in schema.get("allOf", ()):
        yield from _parts(document, part, depth - 1)


def _common_types(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> frozenset[str]:
    return frozenset(TYPES).intersection(*map(types_of, left + right))


def _types_differ(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    return not _common_types(left, right)


def _branches_differ(document: Document, part: dict[str, Any], other: Any, depth: int) -> bool:
    """Whether each branch of an anyOf or oneOf is disjoint from the other schema."""
    return any(
        isinstance(part.get(keyword), list)
        and len(part[keyword]) <= _MOST
        and all(are_disjoint(document, branch, other, depth - 1) for branch in part[keyword])
        for keyword in ("anyOf", "oneOf")
    )


def _values_differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    left, right = values_of(one), values_of(other)
    if left is None or right is None or len(left) * len(right) > _MOST**2:
        return False
    return not any(is_same(a, b) for a in left for b in right)


def _objects_differ(document: Document, left: list[dict[str, Any]], right: list[dict[str, Any]], depth: int) -> bool:
    """Whether both leave only objects, and a name that one of them requires has no value that suits both."""
    if _common_types(left, right) != {"object"}:
        return False
    required = {name for part in left + right for name in part.get("required", ()) if isinstance(name, str)}
    return any(
        are_disjoint(document, a, b, depth - 1)
        for name in required
        for one in left
        for other in right
        for a in _of_name(one, name)
        for b in _of_name(other, name)
    )


def _of_name(part: dict[str, Any], name: str) -> Iterator[Any]:
    """What one part says about the value of a name."""
    properties = part.get("properties", {})
    if name in properties:
        yield properties[name]
    elif part.get("additionalProperties") is False and not part.get("patternProperties"):
        yield False
