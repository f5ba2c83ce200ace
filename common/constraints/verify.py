"""Whether an answer that was not held to all of its schema fits it."""

import json

from common.constraints import dialect

_MOST = 16  # places that are named


def errors(schema: str, text: str) -> tuple[str, ...]:
    """JSON pointers to what does not fit; none: it is valid. Text that is no JSON does not fit as a whole."""
    try:
        value = json.loads(text)
    except ValueError:
        return ("",)
    found = dialect.validator(json.loads(schema)).iter_errors(value)
    pointers = dict.fromkeys("".join(f"/{_escaped(str(part))}" for part in error.instance_path) for error in found)
    return tuple(pointers)[:_MOST]


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")
