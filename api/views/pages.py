"""Lists, page by page."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

from flask import Response, request

from api.errors import json_response
from common.errors import InvalidRequestError

T = TypeVar("T")


def number(name: str, usual: int, least: int, most: int) -> int:
    """What stands behind the path under this name. Raises InvalidRequestError."""
    told = request.args.get(name)
    if told is None:
        return usual
    try:
        found = int(told)
    except ValueError:
        found = least - 1
    if not least <= found <= most:
        raise InvalidRequestError(f"{name}: a number from {least} to {most}.", param=name)
    return found


def page(found: Iterable[T], tell: Callable[[T], dict[str, Any]], most: int) -> Response:
    """The first of them, and whether there are more."""
    some = list(islice(found, most + 1))
    told = [tell(one) for one in some[:most]]
    ends = {"first_id": told[0]["id"], "last_id": told[-1]["id"]} if told else {"first_id": None, "last_id": None}
    return json_response({"object": "list", "data": told, "has_more": len(some) > most} | ends)
