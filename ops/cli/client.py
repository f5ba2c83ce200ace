"""The service as our own commands call it: OPENAI_BASE_URL and OPENAI_API_KEY say where and as whom."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import httpx2

from common.settings import Settings, client_environment
from ops.cli.preflight import UNREACHABLE, WRONG, Refusal

FAILED, REFUSED = 1, 4
_BUSY = (429, 503)
_AGAIN = 5  # times that a stream is taken up without anything new


class Service:
    """One server, while it is asked."""

    def __init__(self, settings: Settings) -> None:
        """Where nothing is said: this machine's, as the settings have it."""
        base, key = client_environment()
        headers = {"Authorization": f"Bearer {key or 'EMPTY'}"}
        self._http = httpx2.Client(base_url=base or f"http://127.0.0.1:{settings.port}/v1", headers=headers, timeout=60)

    def get(self, path: str, **query: Any) -> Any:
        """What it says. Raises Refusal."""
        told = {name: value for name, value in query.items() if value is not None}
        with self._refusals():
            return self._read(self._http.get(path, params=told))

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

    def events(self, path: str, after: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """A job's frames with the numbers of their events, taken up again where the line is cut. Raises Refusal."""
        cuts = 0
        while True:
            try:
                for seen, frame in self._frames(path, after):
                    if frame is None:
                        return
                    after, cuts = seen, 0
                    yield seen, frame
            except httpx2.TransportError as error:
                cuts += 1
                if cuts > _AGAIN:
                    raise Refusal(f"{self._http.base_url} does not answer: {error}", UNREACHABLE) from None

    def _frames(self, path: str, after: int) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Until the end, which is None."""
        with self._http.stream("GET", path, headers={"Last-Event-ID": str(after)}, timeout=None) as answer:
            if answer.is_error:
                answer.read()
                self._read(answer)
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    after = int(value)
                elif name == "data":
                    yield after, None if value == "[DONE]" else json.loads(value)
        raise httpx2.ReadError("the stream was cut")

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TransportError as error:
            raise Refusal(f"{self._http.base_url} does not answer: {error}", UNREACHABLE) from None

    @staticmethod
    def _read(answer: httpx2.Response) -> Any:
        try:
            told = answer.json()
        except ValueError:
            raise Refusal(f"This is no penstock: {answer.status_code} at {answer.url}.", UNREACHABLE) from None
        if answer.is_error:
            raise Refusal(told["error"]["message"], REFUSED if answer.status_code in _BUSY else WRONG)
        return told
