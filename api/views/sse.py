"""A job that is read, as an answer of server-sent events."""

from collections.abc import Callable, Generator
from functools import partial

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


class Body:
    """Blocks that the server asks for without a layer of Flask's between: layers wait in every open stream's stack."""

    def __init__(self, blocks: Generator[bytes], end: Callable[[], None]) -> None:
        self._blocks, self._end = blocks, end

    def __iter__(self) -> Generator[bytes]:
        """The blocks."""
        return self._blocks

    def close(self) -> None:
        """Nobody asks any more; also when the client went before the first byte."""
        self._blocks.close()
        self._end()


def streamed(feed: Feed, shape: Shape) -> Response:
    """Its frames, while they come."""
    parts = state()
    sse = Sse(feed, shape.frames(feed.job), parts.ledger.place, parts.settings.heartbeat_s)
    return Response(Body(iter(sse), partial(parts.end_feed, feed)), headers=_HEADERS, direct_passthrough=True)
