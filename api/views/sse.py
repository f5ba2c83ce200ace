"""A job that is read, as an answer of server-sent events."""

from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Response, g, request

from api.connection import Connection
from api.feed import Feed
from api.state import state
from api.stream import Sse
from common.render.frames import Shape

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

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


class Pushed(Response):
    """Blocks that the server asks for, and others that are written past it while it waits for the next."""

    def __init__(self, body: Body, connection: Connection | None) -> None:
        """``connection``: None where the server is another one."""
        super().__init__(body, headers=_HEADERS, direct_passthrough=True)
        self._connection = connection

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """As WSGI has it, whose ``write`` is kept."""

        def begin(status: str, headers: list[tuple[str, str]], *told: Any) -> Callable[[bytes], object]:
            write = start_response(status, headers, *told)
            if self._connection is not None:
                self._connection.write = write
            return write

        return super().__call__(environ, begin)


def streamed(feed: Feed, shape: Shape) -> Response:
    """Its frames, while they come."""
    parts = state()
    server = request.environ.get("gunicorn.socket")
    connection = server if isinstance(server, Connection) else None
    sse = Sse(feed, shape.frames(feed.job), parts.ledger.place, parts.settings.heartbeat_s, connection)
    return Pushed(Body(iter(sse), partial(parts.end_feed, feed)), connection)
