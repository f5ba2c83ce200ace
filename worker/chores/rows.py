"""A batch's lines as jobs: through the door several at once, and told in their order."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from common.door import admission
from common.errors import ApiError, ExpiredError, InvalidRequestError, UnavailableError
from common.identity import Absent
from common.jobs import Job
from common.ledger.batches import Batch
from common.ledger.ledger import Ledger
from common.protocol.batches import KINDS, Line, read_line
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.generation import Headers
from common.settings import Settings

_KEPT_S = 30 * 86_400


class Door(Protocol):
    """What turns a line into a job."""

    def admit(self, ask: ChatRequest | CompletionRequest, who: Absent, headers: Headers) -> Job:
        """Refuse it, or say what must be done."""

    def close(self) -> None:
        """Leave no child."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the input file, and where it stands."""

    row: int  # counted from 0, without empty lines
    number: int  # counted from 1, with them
    behind: int  # where the next one begins
    raw: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """A line, and the job that it is, or why it is none."""

    place: Place
    line: Line
    job: Job | ApiError


@dataclass(frozen=True, slots=True)
class Some:
    """Lines, and their rows, which may still be read."""

    places: Sequence[Place]
    futures: Sequence[Future[Row]]

    def __iter__(self) -> Iterator[Row]:
        """Each in its turn. Raises UnavailableError: none can be taken now."""
        return (future.result() for future in self.futures)

    def drop(self) -> None:
        """Those that nobody has begun with are not needed."""
        for future in self.futures:
            future.cancel()


class Rows:
    """Reads lines for the driver."""

    def __init__(self, settings: Settings, ledger: Ledger, door: Door | None = None) -> None:
        """Without a door of another's, one is made when the first row comes: its children take memory."""
        self._settings, self._ledger, self._door = settings, ledger, door
        # one thread more than children: it does for one row what Python must, while a child reads another
        self._pool = ThreadPoolExecutor(settings.children + 1, "rows")

    def close(self) -> None:
        """Leave no child."""
        self._pool.shutdown(cancel_futures=True)
        if self._door is not None:
            self._door.close()

    def read(self, batch: Batch, places: Sequence[Place], *, is_late: bool = False) -> Some:
        """Begin with these."""
        if self._door is None:
            self._door = admission.Door(self._settings, self._ledger)
        read = partial(self._row, self._door, batch, is_late=is_late)
        return Some(places, tuple(self._pool.submit(read, place) for place in places))

    def _row(self, door: Door, batch: Batch, place: Place, *, is_late: bool) -> Row:
        line = read_line(place.raw, batch.endpoint, self._settings.limits)
        try:
            if is_late:
                raise ExpiredError("The batch's time ran out before this line.", code="batch_expired")
            return Row(place, line, self._job(door, batch, place.row, line))
        except UnavailableError:
            raise
        except ApiError as error:
            return Row(place, line, error)

    def _job(self, door: Door, batch: Batch, row: int, line: Line) -> Job:
        """As for a request of its own, but for when and how long."""
        if line.body.get("stream"):
            raise InvalidRequestError("stream: a line is answered in one piece.", param="stream")
        ask = KINDS[batch.endpoint].of(line.body, strict=self._settings.strict_params)
        job = door.admit(ask, Absent(batch.owner, batch.weight), Headers())
        return replace(
            job,
            id=row_id(batch, row),
            cls="batch",
            priority=False,
            keep_s=_KEPT_S,
            end_s=max(1, batch.expires - int(time.time())),
            max_wait_s=None,  # nobody sits and waits for a row
            on_disconnect="finish",
            parent=batch.id,
            custom_id=line.custom_id,
        )


def row_id(batch: Batch, row: int) -> str:
    """The same whenever it is asked."""
    digest = hashlib.blake2b(f"{batch.id}\0{row}".encode(), digest_size=16).hexdigest()
    return f"{digest}{batch.id[-2:]}"


def told_line(row: str, custom_id: str, status: int, body: dict[str, Any]) -> str:
    """A line of the output or the error file."""
    response = {"status_code": status, "request_id": row, "body": body}
    told = {"id": f"batch_req_{row}", "custom_id": custom_id, "response": response, "error": None}
    return json.dumps(told, ensure_ascii=False)
