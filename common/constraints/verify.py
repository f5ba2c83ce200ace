"""Whether an answer that was not held to all of its schema fits it."""

import json
from typing import Any

import jsonschema_rs

from common.constraints.document import draft_of

_MOST = 16  # places that are named
_DRAFTS: dict[int, Any] = {
    4: jsonschema_rs.Draft4Validator,
    6: jsonschema_rs.Draft6Validator,
    7: jsonschema_rs.Draft7Validator,
    2019: jsonschema_rs.Draft201909Validator,
    2020: jsonschema_rs.Draft202012Validator,
}


def validator(schema: str) -> Any:
    """Of the draft that it was lowered as; it fetches nothing. Raises ValueError where there can be none."""
    told = json.loads(schema)
    return _DRAFTS[draft_of(told)](told, retriever=_nothing)


def _nothing(uri: str) -> Any:
    """A schema is a client's: whatever it names elsewhere is not asked for."""
    raise ValueError(f"{uri} is not fetched")


def errors(schema: str, text: str) -> tuple[str, ...]:
    """JSON pointers to what does not fit; none: it is valid. Text that is no JSON does not fit as a whole."""
    try:
        value = json.loads(text)
    except ValueError:
        return ("",)
    found = validator(schema).iter_errors(value)
    pointers = dict.fromkeys("".join(f"/{_escaped(str(part))}" for part in error.instance_path) for error in found)
    return tuple(pointers)[:_MOST]


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")
