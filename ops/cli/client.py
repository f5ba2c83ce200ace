"""The service as our own commands call it: OPENAI_BASE_URL and OPENAI_API_KEY say where and as whom."""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import httpx2

from common.settings import Settings, client_environment
from ops.cli.preflight import UNREACHABLE, WRONG, Refusal

FAILED, REFUSED = 1, 4
_BUSY = (429, 503)
_PASSING = (*_BUSY, 502, 504)  # also what a proxy says while nobody stands behind it
_DRAINING = "server_draining"  # no other error of a stream passes: what the storage lost comes back differently
_PAUSE_S, _LONGEST_S = 0.5, 8.0
_PATIENCE_S = 120.0  # a stream is taken up for so long without a word


class _CutError(Exception):
    """A stream ended before its end; the refusal is what to say if it cannot be taken up."""

    def __init__(self, refusal: Refusal, wait_s: float | None) -> None:
        """``wait_s``: how long to stay away, as the server told; None: it told nothing."""
        super().__init__(str(refusal))
        self.refusal, self.wait_s = refusal, wait_s


class Service:
    """One server, while it is asked."""

    def __init__(self, settings: Settings, pause_s: float = _PAUSE_S, patience_s: float = _PATIENCE_S) -> None:
        """Where nothing is said: this machine's, as the settings have it. ``pause_s``: before a stream is taken up."""
        self._pause_s, self._patience_s = pause_s, patience_s
        base, key = client_environment()
        headers = {"Authorization": f"Bearer {key or 'EMPTY'}"}
        self._http = httpx2.Client(base_url=base or f"http://127.0.0.1:{settings.port}/v1", headers=headers, timeout=60)

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """What it says. Raises Refusal."""
        told = {name: value for name, value in query.items() if value is not None}
        with self._refusals():
            return self._read(self._http.get(path, params=told))

    def awaited(self, path: str) -> Any:
        """The same for whoever looks again and again: one who is away for a while is waited for."""
        until, pause_s = time.monotonic() + self._patience_s, self._pause_s
        while True:
            try:
                return self.get(path)
            except Refusal as refusal:
                if refusal.status not in {UNREACHABLE, REFUSED} or time.monotonic() >= until:
                    raise
            time.sleep(pause_s)  # nothing says when the next one is up
            pause_s = min(2 * pause_s, _LONGEST_S)

    def post(self, path: str, **query: Any) -> Any:
        """The same for what changes something. Raises Refusal."""
        told = {name: value for name, value in query.items() if value is not None}
        with self._refusals():
            return self._read(self._http.post(path, params=told))

    def send(self, path: str, body: dict[str, Any]) -> Any:
        """The same with a body. Raises Refusal."""
        with self._refusals():
            return self._read(self._http.post(path, json=body))

    def delete(self, path: str) -> Any:
        """What is no longer there. Raises Refusal."""
        with self._refusals():
            return self._read(self._http.delete(path))

    def upload(self, path: str, file: BinaryIO, name: str, **fields: str) -> Any:
        """The same with a file. Raises Refusal."""
        with self._refusals():
            return self._read(self._http.post(path, files={"file": (name, file)}, data=fields, timeout=None))

    def lines(self, path: str) -> Iterator[str]:
        """A text, line by line. Raises Refusal."""
        with self._refusals(), self._http.stream("GET", path) as answer:
            if answer.is_error:
                answer.read()
                self._read(answer)
            yield from answer.iter_lines()

    def events(self, path: str, after: int) -> Generator[tuple[int, dict[str, Any]]]:
        """A job's frames with the numbers of their events; what is cut goes on behind the last one. Raises Refusal.

        Pauses grow until something new comes. Where nobody answered at all, nobody is waited for.
        """
        has_answered, pause_s, silent_since = False, self._pause_s, 0.0
        while True:
            try:
                for seen, frame in self._frames(path, after):
                    has_answered, silent_since = True, 0.0
                    if frame is not None:
                        after, pause_s = seen, self._pause_s
                        yield seen, frame
            except _CutError as cut:
                has_answered = has_answered or cut.wait_s is not None
                silent_since = silent_since or time.monotonic()
                if not has_answered or time.monotonic() - silent_since >= self._patience_s:
                    raise cut.refusal from None
                time.sleep(min(max(pause_s, cut.wait_s or 0), self._patience_s))  # nothing says when the next one is up
                pause_s = min(2 * pause_s, _LONGEST_S)
            else:
                return

    def _frames(self, path: str, after: int) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Until the end; None for a line that says only that somebody is there. Raises Refusal and _CutError."""
        try:
            with self._http.stream("GET", path, headers={"Last-Event-ID": str(after)}) as answer:
                if answer.is_error:
                    answer.read()
                    self._refuse(answer)
                block: dict[str, str] = {}
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    block[name] = value
                    if line.startswith(":"):
                        yield after, None
                    if not line and "data" in block:  # whole: a cut may leave half a line
                        if block["data"] == "[DONE]":
                            return
                        after = int(block.get("id", after))
                        yield after, _frame(block["data"])
                        block = {}
        except httpx2.TransportError as error:
            raise _CutError(self._away(error), None) from None
        raise _CutError(Refusal(f"{self._http.base_url} cut the stream.", UNREACHABLE), None)

    def _refuse(self, answer: httpx2.Response) -> None:
        """A stream that there is not, or not now. Raises Refusal and _CutError."""
        try:
            self._read(answer)
        except Refusal as refusal:
            if answer.status_code not in _PASSING:
                raise
            told = answer.headers.get("Retry-After", "")
            raise _CutError(refusal, float(told) if told.isdecimal() else 0.0) from None

    def _away(self, error: httpx2.TransportError) -> Refusal:
        return Refusal(f"{self._http.base_url} does not answer: {error}", UNREACHABLE)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TransportError as error:
            raise self._away(error) from None

    @staticmethod
    def _read(answer: httpx2.Response) -> Any:
        try:
            told = answer.json()
        except ValueError:
            raise Refusal(f"This is no penstock: {answer.status_code} at {answer.url}.", UNREACHABLE) from None
        if answer.is_error:
            raise Refusal(told["error"]["message"], REFUSED if answer.status_code in _BUSY else WRONG)
        return told


def _frame(told: str) -> dict[str, Any]:
    """Raises _CutError."""
    frame: dict[str, Any] = json.loads(told)
    if "error" in frame and frame["error"]["code"] == _DRAINING:
        raise _CutError(Refusal(frame["error"]["message"], REFUSED), 0.0)
    return frame
