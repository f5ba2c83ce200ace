"""Chat and text completions: parse, submit, reply."""

import math
import re
from hashlib import sha256

from flask import Blueprint, Response, g, request

from api import body
from api.errors import json_response
from api.feed import Feed
from api.openapi import reads
from api.state import state
from api.stream import gather
from api.views.asked import naming_ignored
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
_KEY = re.compile(r"[!-~]{1,255}")


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
    headers = _headers()
    once = _once(told, headers)
    feed = looked_after(state().open_feed(ask, g.who, headers, once))
    if headers.sdk and not headers.idempotency and not feed.job.reply.stream:
        feed.orphan = named(g.who.owner, once.digest)
    if ask.client_metadata:
        log.info("request accepted", job=feed.job.id, client_metadata=ask.client_metadata)
    response = streamed(feed, shape) if feed.job.reply.stream else _whole(feed, shape)
    if feed.is_replayed:
        response.headers["idempotent-replayed"] = "true"
    return naming_ignored(response, ask)


def _once(told: bytes, headers: Headers) -> Once:
    """By what this request would be known again."""
    key, digest = request.headers.get("Idempotency-Key", ""), sha256(request.path.encode() + b"\0" + told).hexdigest()
    if headers.idempotency and not _KEY.fullmatch(key):
        raise InvalidRequestError("Idempotency-Key: up to 255 visible characters.", param="Idempotency-Key")
    is_again = (request.headers.get("x-stainless-retry-count", type=int) or 0) > 0
    orphan = named(g.who.owner, digest) if is_again and not key else ""
    return Once(named(g.who.owner, key) if key else "", digest, orphan)


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
        idempotency="Idempotency-Key" in told,
    )
