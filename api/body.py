"""A request's body: JSON by name, of bounded size, within a bounded time."""

from contextlib import AbstractContextManager, nullcontext

import gevent
from flask import g, request
from gevent import monkey

from api.turns import in_turns
from common.errors import InvalidRequestError, MediaTypeError, SlowBodyError, TransferCodingError


def read(limit_s: float) -> bytes:
    """All of it. Raises MediaTypeError, TransferCodingError, SlowBodyError, InvalidRequestError, and Flask's 413.

    A body without a type is refused as well: browsers may send one to any site without asking first.
    """
    if "body" not in g:
        _refuse_type()
        with deadline(limit_s):
            g.body = b"".join(in_turns(request.stream.read))
        if len(g.body) < (request.content_length or 0):
            raise InvalidRequestError("The body ended before its Content-Length.")
    body: bytes = g.body
    return body


def required(limit_s: float) -> bytes:
    """The same, and there is one."""
    body = read(limit_s)
    if not body:
        raise InvalidRequestError("There is no body: send a JSON object, with its Content-Length or in chunks.")
    return body


def _refuse_type() -> None:
    if request.mimetype != "application/json":
        told = request.mimetype or "none"
        raise MediaTypeError(f"The Content-Type must be application/json, not {told[:64]!r}; curl -d needs -H for it.")
    if request.headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        raise TransferCodingError("Of all transfer codings only chunked is known here.")
    if request.content_encoding:
        raise MediaTypeError("Send the body without a Content-Encoding.")


def deadline(limit_s: float) -> AbstractContextManager[object]:
    """Raise SlowBodyError when time is up; threads have no such bell, their server's time-outs must do."""
    if not monkey.is_module_patched("socket"):
        return nullcontext()
    late: AbstractContextManager[object] = gevent.Timeout(
        limit_s, SlowBodyError(f"The body did not arrive within {limit_s:g} s.")
    )
    return late
