"""Whether an answer that was not held to all of its schema fits it."""

import json
import sys

from common.constraints import dialect

_MOST = 16  # places that are named


def errors(schema: str, text: str) -> tuple[str, ...]:
    """JSON pointers to what does not fit; none: it is valid. Text that is no JSON, or too deep, does not fit."""
    try:
        value = json.loads(text, parse_float=_number)
    except (ValueError, RecursionError):
        return ("",)
    found = dialect.validator(json.loads(schema)).iter_errors(value)
    pointers = dict.fromkeys("".join(f"/{_escaped(str(part))}" for part in error.instance_path) for error in found)
    return tuple(pointers)[:_MOST]


def _number(text: str) -> float:
    """What no float holds, as 1e999, stands for the greatest: an infinite one would be looked at as null."""
    return max(-sys.float_info.max, min(float(text), sys.float_info.max))


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")
