"""Small steps on schemas that are lowered already."""

from typing import Any

from common.constraints.disjoint import type_of

_EXACT_NUMBERS = 2**53  # beyond it the engine, which counts in floats, would take another number


def joined(parts: list[Any]) -> Any:
    """All of it at once."""
    left = [part for part in parts if part is not True and part != {}]
    if any(part is False for part in left):
        return False
    if not left:
        return {}
    first = left[0]
    rest = [part for part in left[1:] if part != first]
    if not rest:
        return first
    if len(rest) == 1 and len(rest[0]) == 1 and not rest[0].keys() & first.keys() and rest[0].keys() <= _APART:
        return first | rest[0]
    return {"allOf": [first, *rest]}


_APART = {"$ref", "anyOf"}  # they mean the same beside other keywords


def any_of(options: list[Any]) -> Any:
    """One of them."""
    if any(option is True or option == {} for option in options):
        return True
    left = [option for option in options if option is not False]
    if not left:
        return False
    return left[0] if len(left) == 1 else {"anyOf": left}


def is_great(value: Any) -> bool:
    """Whether it has a number for which the engine would take a neighbour."""
    if isinstance(value, list):
        return any(map(is_great, value))
    if isinstance(value, dict):
        return any(map(is_great, value.values()))
    return type_of(value) == "number" and abs(value) > _EXACT_NUMBERS
