"""What a request asks for, what of it is passed over, and by what it would be known again."""

import re
from hashlib import sha256
from typing import TypeVar

from flask import Response, g, request

from api import body
from api.state import state
from common import protocol
from common.errors import InvalidRequestError
from common.identity import named
from common.ledger.replies import Once
from common.protocol import Request

R = TypeVar("R", bound=Request)
KEY = "Idempotency-Key"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]")
_MOST_NAMED = 32
_VISIBLE = re.compile(r"[!-~]{1,255}")


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


def key_of(kind: str) -> str:
    """What this request's idempotency key is called in Redis; empty without one. Raises InvalidRequestError.

    ``kind``: what the request makes. One key may stand for one of each.
    """
    key = request.headers.get(KEY)
    if key is not None and not _VISIBLE.fullmatch(key):
        raise InvalidRequestError(f"{KEY}: up to 255 visible characters.", param=KEY)
    return "" if key is None else named(g.who.owner, f"{kind} {key}")


def once(kind: str, told: bytes | None = None) -> Once:
    """By what this request would be known again: its path, and ``told`` or its body. Raises InvalidRequestError."""
    told = body.required(state().settings.limits.body_s) if told is None else told
    return Once(key_of(kind), sha256(request.path.encode() + b"\0" + told).hexdigest())


def replayed(response: Response) -> Response:
    """The same answer, which says that an equal request came before."""
    response.headers["idempotent-replayed"] = "true"
    return response
