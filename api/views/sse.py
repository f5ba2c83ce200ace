"""A job that is read, as an answer of server-sent events."""

from flask import Response, g, request

from api.feed import Feed
from api.state import state
from api.stream import Sse
from common.render.frames import Shape

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


def looked_after(feed: Feed) -> Feed:
    """From now on its client's hang-up is seen, and every answer names its job."""
    g.job_id = feed.job.id
    if connection := request.environ.get("gunicorn.socket"):
        state().sweeper.watch(feed, connection)
    return feed


def streamed(feed: Feed, shape: Shape) -> Response:
    """Its frames, while they come."""
    parts = state()
    sse = Sse(feed, shape.frames(feed.job), parts.ledger.place, parts.settings.heartbeat_s)
    response = Response(iter(sse), headers=_HEADERS)
    response.call_on_close(lambda: parts.end_feed(feed))  # also when the client went before the first byte
    return response
