"""Batches: their rows into the ledger, their answers into files; every step may be done twice and counts once.

The id of a row's job follows from the batch and the row, so a row that is submitted again is the job that is there.
Ended rows stand in a list of the ledger until their lines are written; a part of a file counts once the ledger says so
in the same step that takes its rows off that list.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from itertools import islice
from typing import Any, BinaryIO, Protocol

from common import telemetry
from common.door import admission
from common.errors import ApiError, ExpiredError, InternalError, InvalidRequestError, StorageError, UnavailableError
from common.files import File, Files
from common.identity import Absent
from common.jobs import Delta, Done, Event, Failed, Job
from common.ledger.batches import FILES, Batch, Batches, BatchState, FileKind
from common.ledger.batches import PREFIX as BATCH
from common.ledger.ledger import Ledger
from common.protocol.batches import KINDS, LINE_BYTES, Line, read_line
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.generation import Headers
from common.render.shapes import SHAPES
from common.settings import Settings

_LEASE_S = 15.0
_SLICE_S = 1.0  # of one batch, before the next one's turn
_FED, _TAKEN = 64, 500  # rows in one step
_KEPT_S = 30 * 86_400
_WHOLE_LOG = 10**6
_MOST_ERRORS = 20  # of a file, that are told
log = telemetry.logger("batches")


class Door(Protocol):
    """What turns a line into a job."""

    def admit(self, ask: ChatRequest | CompletionRequest, who: Absent, headers: Headers) -> Job:
        """Refuse it, or say what must be done."""

    def close(self) -> None:
        """Leave no child."""


class Driver:
    """Goes from batch to batch and does what is next."""

    def __init__(self, settings: Settings, ledger: Ledger, holder: str, door: Door | None = None) -> None:
        """Without a door of another's, one is made when the first row comes: its children take memory."""
        self._settings, self._ledger, self._holder = settings, ledger, holder
        self._batches = Batches(ledger)
        self._files = Files(settings, ledger.partitions[0])
        self._stopped: set[str] = set()  # batches whose rows we have cancelled
        self._door = door

    def __call__(self) -> None:
        """One round over all that are open and that nobody else drives."""
        for part in self._ledger.partitions:
            for batch_id in self._batches.open(part.number):
                if self._ledger.lease(f"batch:{batch_id}", self._holder, _LEASE_S):
                    self._drive(batch_id)

    def close(self) -> None:
        """Leave no child."""
        if self._door is not None:
            self._door.close()

    def _drive(self, batch_id: str) -> None:
        batch = self._batches.get(None, batch_id)
        if batch is None:
            return
        match batch.state:
            case "validating":
                self._validate(batch)
            case "in_progress":
                self._progress(batch)
            case "cancelling":
                self._wind_up(batch, "cancelled")
            case "finalizing":
                self._end(batch, "completed")

    # validating ----------------------------------------------------------------------------------------------------
    def _validate(self, batch: Batch) -> None:
        """The whole file before anything is begun."""
        errors, seen, total = list[dict[str, Any]](), set[str](), 0
        try:
            for number, _, raw in self._lines(batch):
                total += 1
                if total > self._settings.limits.batch_lines:
                    raise InvalidRequestError(
                        f"At most {self._settings.limits.batch_lines} lines.", code="too_many_lines"
                    )
                if (error := self._misread(batch, raw, seen)) is not None and len(errors) < _MOST_ERRORS:
                    errors.append(_told(error, number))
            if not total:
                raise InvalidRequestError("The file has no line.", code="empty_file")
        except ApiError as error:
            if isinstance(error, StorageError):
                raise
            errors.append(_told(error, None))
        if errors:
            self._batches.move(batch, "failed", errors=json.dumps(errors), total=total)
            log.info("batch refused", batch=batch.id, errors=len(errors))
            return
        self._batches.move(batch, "in_progress", total=total)
        log.info("batch begun", batch=batch.id, rows=total)

    def _misread(self, batch: Batch, raw: bytes, seen: set[str]) -> ApiError | None:
        try:
            line = read_line(raw, batch.endpoint, self._settings.limits)
        except InvalidRequestError as error:
            return error
        if line.custom_id in seen:
            return InvalidRequestError("custom_id: it came before.", param="custom_id", code="duplicate_custom_id")
        seen.add(line.custom_id)
        return None

    def _lines(self, batch: Batch, offset: int = 0) -> Iterator[tuple[int, int, bytes]]:
        """Number, place behind it, and bytes of each line that says something."""
        with self._files.opened(batch.input_file) as file:
            file.seek(offset)
            yield from _lines(file, offset)

    # in progress ---------------------------------------------------------------------------------------------------
    def _progress(self, batch: Batch) -> None:
        """Rows in, answers out, for a while."""
        until, is_late = time.monotonic() + _SLICE_S, time.time() >= batch.expires
        try:
            while batch.row < batch.total and time.monotonic() < until:
                if not self._feed(batch, is_late=is_late):
                    return
                batch = self._again(batch)
        except UnavailableError as error:
            log.warning("rows have to wait", batch=batch.id, why=error.message)
        if is_late:
            self._cancel(batch)
        self._collect(batch)
        batch = self._again(batch)
        if batch.state == "in_progress" and batch.taken >= batch.total:
            if is_late:
                self._end(batch, "expired")
            else:
                self._batches.move(batch, "finalizing")

    def _again(self, batch: Batch) -> Batch:
        """As it stands by now."""
        return self._batches.get(None, batch.id) or batch

    def _feed(self, batch: Batch, *, is_late: bool) -> bool:
        """The next rows; False: somebody else was quicker. Raises UnavailableError: none can be taken now."""
        errors, row, offset = list[str](), batch.row, batch.offset
        for _, behind, raw in islice(self._lines(batch, batch.offset), _FED):
            line = read_line(raw, batch.endpoint, self._settings.limits)
            try:
                if is_late:
                    raise ExpiredError("The batch's time ran out before this line.", code="batch_expired")
                self._ledger.submit(self._job(batch, row, line), self._settings.limits)
            except UnavailableError:
                raise
            except ApiError as error:
                if self._ledger.job(batch.owner, _row_id(batch, row)) is None:  # else it was taken before, unrecorded
                    errors.append(_line(_row_id(batch, row), line.custom_id, error.status, error.body()))
            row, offset = row + 1, behind
        return self._batches.fed(batch, row, offset, errors)

    def _job(self, batch: Batch, row: int, line: Line) -> Job:
        """As for a request of its own, but for when and how long."""
        if line.body.get("stream"):
            raise InvalidRequestError("stream: a line is answered in one piece.", param="stream")
        ask = KINDS[batch.endpoint].of(line.body, strict=self._settings.strict_params)
        if self._door is None:
            self._door = admission.Door(self._settings, self._ledger)
        job = self._door.admit(ask, Absent(batch.owner, batch.weight), Headers())
        return replace(
            job,
            id=_row_id(batch, row),
            cls="batch",
            priority=False,
            keep_s=_KEPT_S,
            end_s=max(1, batch.expires - int(time.time())),
            on_disconnect="finish",
            parent=batch.id,
            custom_id=line.custom_id,
        )

    # answers -------------------------------------------------------------------------------------------------------
    def _collect(self, batch: Batch) -> int:
        """Write the lines of rows that have ended; how many."""
        ended = self._batches.ended(batch, _TAKEN)
        if not ended:
            return 0
        lines = [self._answer(batch, one) for one in ended]
        outputs, errors = ([line for line, is_good in lines if is_good == wanted] for wanted in (True, False))
        segments = [
            self._files.part(batch.file(kind), "".join(some).encode()) if some else ""
            for kind, some in zip(FILES, (outputs, errors), strict=True)
        ]
        if self._batches.collected(batch, len(ended), segments, len(outputs), len(errors)):
            self._show(batch)
        return len(ended)

    def _show(self, batch: Batch) -> None:
        """The files say what they hold by now."""
        for kind in FILES:
            if parts := self._batches.segments(batch, kind):
                self._files.grow(self._file(batch, kind), parts)

    @staticmethod
    def _file(batch: Batch, kind: FileKind) -> File:
        created = batch.times.get("in_progress", batch.created)
        expires = created + batch.keep_s if batch.keep_s else None
        name = f"{BATCH}{batch.id}_{kind}.jsonl"
        return File(batch.file(kind), batch.owner, name, "batch_output", 0, created, expires)

    def _answer(self, batch: Batch, ended: str) -> tuple[str, bool]:
        """The line of a row, and whether it is an answer."""
        if ended.startswith("{"):
            return ended + "\n", False
        job, watched = self._ledger.job(batch.owner, ended), self._ledger.read(batch.owner, ended, 0, _WHOLE_LOG)
        if job is None or watched is None:
            lost = InternalError("The storage has lost this line's answer.")
            return _line(ended, "", lost.status, lost.body()) + "\n", False
        status, told = _result(job, [entry.event for entry in watched.entries])
        return _line(ended, job.custom_id, status, told) + "\n", status == HTTPStatus.OK

    # ends ----------------------------------------------------------------------------------------------------------
    def _wind_up(self, batch: Batch, end: BatchState) -> None:
        """Cancel what was fed and has not ended; write what has; then it is over."""
        if self._is_half_fed(batch):
            self._feed(batch, is_late=False)
            batch = self._again(batch)
        self._cancel(batch)
        self._collect(batch)
        batch = self._again(batch)
        if batch.taken >= batch.row:
            self._end(batch, end)

    def _is_half_fed(self, batch: Batch) -> bool:
        """Whether rows were submitted of which no step tells: whoever did it has died, or the cancel was quicker."""
        rows = range(batch.row, min(batch.total, batch.row + _FED))
        return any(self._ledger.job(batch.owner, _row_id(batch, row)) is not None for row in rows)

    def _cancel(self, batch: Batch) -> None:
        """All that was fed, once while we drive it."""
        if batch.id not in self._stopped:
            for row in range(batch.row):
                self._ledger.cancel(batch.owner, _row_id(batch, row))
            self._stopped.add(batch.id)

    def _end(self, batch: Batch, end: BatchState) -> None:
        self._stopped.discard(batch.id)
        self._show(batch)
        self._batches.move(batch, end)
        log.info("batch ended", batch=batch.id, state=end, completed=batch.completed, failed=batch.failed)


def _lines(file: BinaryIO, offset: int) -> Iterator[tuple[int, int, bytes]]:
    number = 0
    while raw := file.readline(LINE_BYTES + 2):
        number += 1
        offset += len(raw)
        if raw.strip():
            yield number, offset, raw.rstrip(b"\r\n")


def _digest(*parts: str | int) -> str:
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def _row_id(batch: Batch, row: int) -> str:
    """The same whenever it is asked."""
    return f"{_digest(batch.id, row)}{batch.id[-2:]}"


def _told(error: ApiError, line: int | None) -> dict[str, Any]:
    return {"code": error.actual_code, "message": error.message, "param": error.param, "line": line}


def _line(row_id: str, custom_id: str, status: int, body: dict[str, Any]) -> str:
    response = {"status_code": status, "request_id": row_id, "body": body}
    told = {"id": f"batch_req_{row_id}", "custom_id": custom_id, "response": response, "error": None}
    return json.dumps(told, ensure_ascii=False)


def _result(job: Job, events: Sequence[Event]) -> tuple[int, dict[str, Any]]:
    end = events[-1] if events else None
    if isinstance(end, Failed):
        return end.status, end.body()
    if not isinstance(end, Done):
        raise StorageError("The log of an ended row has no end.")
    deltas = (event for event in events if isinstance(event, Delta))
    return HTTPStatus.OK, SHAPES[job.reply.kind].whole(job, deltas, end.usage)
