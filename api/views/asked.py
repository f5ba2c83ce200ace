"""What a body asks for, and what of it is passed over."""

import re
from typing import TypeVar

from flask import Response

from api import body
from api.state import state
from common import protocol
from common.protocol import Request

R = TypeVar("R", bound=Request)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]")
_MOST_NAMED = 32


def asked(kind: type[R]) -> R:
    """The body of this request. Raises InvalidRequestError."""
    settings = state().settings
    told = body.required(settings.limits.body_s)
    return protocol.parse(told, kind, limits=settings.limits, strict=settings.strict_params)


def naming_ignored(response: Response, ask: Request) -> Response:
    """The same answer, which says what was ignored."""
    if ask.ignored:
        names = (_UNSAFE.sub("?", name[:64]) for name in ask.ignored[:_MOST_NAMED])
        response.headers["x-ignored-params"] = ",".join(names)
    return response
