"""Lines to Redis that break on demand: cut, stalled, or losing replies. One thread serves them all."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_SIZE = 2**16


class Line:
    """A way to the Redis at a URL, and what is wrong with it. Its methods may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, url: str) -> None:
        self._loop = loop
        self._parts = urlsplit(url)
        self._is_cut = False
        self._losses = 0
        self._passes = asyncio.Event()
        self._passes.set()
        self._ends: set[asyncio.StreamWriter] = set()  # of all connections, ours and Redis'
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        password = self._parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(self._parts._replace(netloc=f"{password}@127.0.0.1:{port}".removeprefix("@")))

    async def close(self) -> None:
        self._server.close()
        self._abort()
        self._passes.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection, also new ones, until ``heal``."""
        self._tell(self._cut)

    def stall(self) -> None:
        """Pass nothing on, in either direction, until ``heal``."""
        self._tell(self._passes.clear)

    def lose(self, replies: int) -> None:
        """What was asked arrives; that many times its reply does not, and the connection is reset."""
        self._tell(lambda: setattr(self, "_losses", replies))

    def heal(self) -> None:
        """As new."""
        self._tell(self._heal)

    def _tell(self, what: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(what)

    def _cut(self) -> None:
        self._is_cut = True
        self._abort()

    def _heal(self) -> None:
        self._is_cut, self._losses = False, 0
        self._passes.set()

    def _abort(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _serve(self, asks: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        self._ends.add(answers)
        task = asyncio.current_task()
        if task:
            self._tasks.add(task)
        with suppress(OSError):
            await self._join(asks, answers)
        answers.transport.abort()
        self._ends.discard(answers)
        if task:
            self._tasks.discard(task)

    async def _join(self, asks: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Both directions of one connection, until either end closes."""
        await self._passes.wait()
        if self._is_cut:
            return
        answered, asked = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        self._ends.add(asked)
        ways = [
            asyncio.ensure_future(self._pass(asks, asked, is_reply=False)),
            asyncio.ensure_future(self._pass(answered, answers, is_reply=True)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for end in (asked, answers):
            end.transport.abort()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        self._ends.discard(asked)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_reply: bool) -> None:
        while told := await source.read(_SIZE):
            await self._passes.wait()
            if is_reply and self._losses:
                self._losses -= 1
                return
            sink.write(told)
            await sink.drain()


class Lines:
    """The thread that serves lines; a context."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lines: list[Line] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lines")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def line(self) -> Line:
        """One more."""
        return asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> Line:
        line = Line(self._loop, self._url)
        await line.open()
        self._lines.append(line)
        return line

    async def _close(self) -> None:
        for line in self._lines:
            await line.close()
