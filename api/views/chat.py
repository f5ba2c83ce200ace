"""Chat and text completions: parse, submit, reply."""

import math
import re

from flask import Blueprint, Response, g, request

from api import body
from api.errors import json_response
from api.feed import Feed
from api.openapi import reads
from api.state import state
from api.stream import Sse, gather
from common import protocol, telemetry
from common.errors import InvalidRequestError
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.generation import Headers
from common.render import chat as chat_shape
from common.render import completions as completion_shape
from common.render.frames import Shape

log = telemetry.logger("api")
bp = Blueprint("chat", __name__, url_prefix="/v1")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]")
_MOST_NAMED = 32
_STREAM = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


@bp.post("/chat/completions")
@reads(ChatRequest)
def chat() -> Response:
    """A conversation in, a message out."""
    return _answer(ChatRequest, chat_shape)


@bp.post("/completions")
@reads(CompletionRequest)
def complete() -> Response:
    """A text in, its continuation out."""
    return _answer(CompletionRequest, completion_shape)


def _answer(kind: type[ChatRequest | CompletionRequest], shape: Shape) -> Response:
    settings = state().settings
    told = body.required(settings.limits.body_s)
    ask = protocol.parse(told, kind, limits=settings.limits, strict=settings.strict_params)
    feed = state().open_feed(ask, g.who, _headers())
    if ask.client_metadata:
        log.info("request accepted", job=feed.job.id, client_metadata=ask.client_metadata)
    if connection := request.environ.get("gunicorn.socket"):
        state().sweeper.watch(feed, connection)
    response = _streamed(feed, shape) if feed.job.reply.stream else _whole(feed, shape)
    response.headers["x-job-id"] = f"job_{feed.job.id}"
    if ask.ignored:
        response.headers["x-ignored-params"] = ",".join(map(_header_safe, ask.ignored[:_MOST_NAMED]))
    return response


def _streamed(feed: Feed, shape: Shape) -> Response:
    parts = state()
    sse = Sse(feed, shape.frames(feed.job), parts.ledger.place, parts.settings.heartbeat_s)
    response = Response(iter(sse), headers=_STREAM)
    response.call_on_close(lambda: parts.end_feed(feed))  # also when the client went before the first byte
    return response


def _whole(feed: Feed, shape: Shape) -> Response:
    try:
        return json_response(gather(feed, shape, state().settings.heartbeat_s))
    finally:
        state().end_feed(feed)


def _positive(number: float | None) -> float | None:
    """What can be waited for; not inf, not nan."""
    return number if number is not None and 0 < number < math.inf else None


def _header_safe(name: str) -> str:
    return _UNSAFE.sub("?", name[:64])


def _headers() -> Headers:
    """What the door wants to know of HTTP."""
    told = request.headers
    deadline_ms = _positive(told.get("x-deadline-ms", type=float))
    if deadline_ms is None and "x-deadline-ms" in told:
        raise InvalidRequestError(
            "x-deadline-ms: it should be a number of milliseconds above 0.", param="x-deadline-ms"
        )
    return Headers(
        read_timeout_s=_positive(told.get("x-stainless-read-timeout", type=float)),
        deadline_ms=deadline_ms,
        sdk=any(name.lower().startswith("x-stainless-") for name in dict(told)),
        idempotency="Idempotency-Key" in told,
    )
