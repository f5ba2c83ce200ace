"""Chat and text completions: parse, submit, reply."""

import math
from dataclasses import replace

from flask import Blueprint, Response, g, request

from api import body
from api.errors import json_response
from api.feed import Feed
from api.openapi import reads, takes
from api.state import state
from api.stream import gather
from api.views.asked import KEY, naming_ignored, once, replayed
from api.views.sse import looked_after, streamed
from common import protocol, telemetry
from common.errors import InvalidRequestError
from common.identity import named
from common.ledger.replies import Once
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.generation import Headers
from common.render import chat as chat_shape
from common.render import completions as completion_shape
from common.render.frames import Shape

log = telemetry.logger("api")
bp = Blueprint("chat", __name__, url_prefix="/v1")
_HEADERS = ("x-deadline-ms", KEY)


@bp.post("/chat/completions")
@reads(ChatRequest)
@takes(headers=_HEADERS)
def chat() -> Response:
    """A conversation in, a message out."""
    return _answer(ChatRequest, chat_shape)


@bp.post("/completions")
@reads(CompletionRequest)
@takes(headers=_HEADERS)
def complete() -> Response:
    """A text in, its continuation out."""
    return _answer(CompletionRequest, completion_shape)


def _answer(kind: type[ChatRequest | CompletionRequest], shape: Shape) -> Response:
    settings = state().settings
    told = body.required(settings.limits.body_s)
    ask = protocol.parse(told, kind, limits=settings.limits, strict=settings.strict_params)
    headers = _headers()
    known_by = _once(told)
    feed = looked_after(state().open_feed(ask, g.who, headers, known_by))
    if headers.sdk and not headers.idempotency and not feed.job.reply.stream:
        feed.orphan = named(g.who.owner, known_by.digest)
    if ask.client_metadata:
        log.info("request accepted", job=feed.job.id, client_metadata=ask.client_metadata)
    response = streamed(feed, shape) if feed.job.reply.stream else _whole(feed, shape)
    if feed.is_replayed:
        replayed(response)
    return naming_ignored(response, ask)


def _once(told: bytes) -> Once:
    """By what this request would be known again."""
    known_by = once("job", told)
    is_again = (request.headers.get("x-stainless-retry-count", type=int) or 0) > 0
    return replace(known_by, orphan=named(g.who.owner, known_by.digest)) if is_again and not known_by.key else known_by


def _whole(feed: Feed, shape: Shape) -> Response:
    try:
        return json_response(gather(feed, shape, state().settings.heartbeat_s))
    finally:
        state().end_feed(feed)


def _positive(number: float | None) -> float | None:
    """What can be waited for; not inf, not nan."""
    return number if number is not None and 0 < number < math.inf else None


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
        idempotency=KEY in told,
    )
