"""Batches: their rows into the ledger, their answers into files; every step may be done twice and counts once.

The id of a row's job follows from the batch and the row, so a row that is submitted again is the job that is there.
Ended rows stand in a list of the ledger until their lines are written; a part of a file counts once the ledger says so
in the same step that takes its rows off that list.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from itertools import islice
from typing import Any, BinaryIO

from common import telemetry
from common.errors import ApiError, InternalError, InvalidRequestError, NotFoundError, StorageError, UnavailableError
from common.files import File, Files
from common.jobs import Delta, Done, Event, Failed, Job, Usage
from common.ledger.batches import FILES, Batch, Batches, BatchState, FileKind
from common.ledger.batches import PREFIX as BATCH
from common.ledger.ledger import Ledger
from common.protocol.batches import LINE_BYTES, read_line
from common.protocol.schedule import Schedule
from common.render.shapes import SHAPES
from common.settings import Settings
from worker.chores.rows import Door, Place, Row, Rows, Some, row_id, told_line

_LEASE_S = 15.0
_SLICE_S = 1.0  # of one batch, before the next one's turn
_FED, _TAKEN = 64, 500  # rows in one step
_AT_ONCE = 16  # rows in one round trip, and then written down: the storage has others to answer
_ROOM = 0.75  # of the memory that requests may fill: people who come meanwhile find the rest
_PARTS, _PART_S = 100, 5.0  # ended rows are written once they are a hundredth of all that are, or after so long
_WHOLE_LOG = 10**6
_MOST_ERRORS = 20  # of a file, that are told
_USED = ("prompt_tokens", "cached_tokens", "completion_tokens")
log = telemetry.logger("batches")


class Driver:
    """Goes from batch to batch and does what is next."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        holder: str,
        door: Door | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without a door of another's, one is made when the first row comes: its children take memory."""
        self._settings, self._ledger, self._holder, self._clock = settings, ledger, holder, clock
        self._batches = Batches(ledger)
        self._files = Files(settings, ledger.partitions[0])
        self._rows = Rows(settings, ledger, door)
        self._has_more = False  # than this round had time for
        self._stopped: dict[str, int] = {}  # batches that are to end -> rows that we have cancelled
        self._written: dict[str, float] = {}  # batches that we drive -> when we last looked for what to write

    def __call__(self) -> bool:
        """One round over all that are open and that nobody else drives; True where more rows could be fed at once."""
        self._has_more = False
        for part in self._ledger.partitions:
            try:
                for batch_id in self._batches.open(part.number):
                    if self._ledger.lease(f"batch:{batch_id}", self._holder, _LEASE_S):
                        self._try(batch_id)
            except StorageError:
                log.warning("a partition does not answer", partition=part.number)
        return self._has_more

    def close(self) -> None:
        """Leave no child."""
        self._rows.close()

    def _try(self, batch_id: str) -> None:
        """Whatever is wrong with one, the next one has its turn."""
        try:
            self._drive(batch_id)
        except UnavailableError as error:
            log.warning("a batch has to wait", batch=batch_id, why=error.message)
        except Exception:  # nobody else's batch hangs on it
            log.exception("a batch does not go on", batch=batch_id)

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
            with self._places(batch) as places:
                for place in places:
                    total += 1
                    if total > self._settings.limits.batch_lines:
                        message = f"At most {self._settings.limits.batch_lines} lines."
                        raise InvalidRequestError(message, code="too_many_lines")
                    if (error := self._misread(batch, place.raw, seen)) is not None and len(errors) < _MOST_ERRORS:
                        errors.append(_told(error, place.number))
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

    @contextmanager
    def _places(self, batch: Batch) -> Iterator[Iterator[Place]]:
        """The lines that say something, from the next one that is to be submitted. Raises NotFoundError: for good."""
        if self._files.get(batch.owner, batch.input_file) is None:  # where only its bytes are away, they may come back
            message = "input_file_id: the file was deleted, or has expired."
            raise NotFoundError(message, param="input_file_id", code="file_not_found")
        with self._files.opened(batch.input_file) as file:
            file.seek(batch.offset)
            yield _places(file, batch)

    # in progress ---------------------------------------------------------------------------------------------------
    def _progress(self, batch: Batch) -> None:
        """Rows in, answers out, for a while."""
        now = self._clock()
        is_late = now >= batch.expires
        may_begin = is_late or batch.is_dry or Schedule.of(batch.metadata).opens_at(now) <= now
        gone = self._feed_or_wait(batch, is_late=is_late) if may_begin else None
        batch = self._again(batch)
        if is_late:
            self._cancel(batch)
        self._collect(batch)
        batch = self._again(batch)
        if batch.state != "in_progress":
            return
        if gone is not None and self._is_all_written(batch):
            self._end(batch, "failed", errors=json.dumps([_told(gone, None)]))
        elif batch.taken >= batch.total and is_late:
            self._end(batch, "expired")
        elif batch.taken >= batch.total:
            self._batches.move(batch, "finalizing")

    def _feed_or_wait(self, batch: Batch, *, is_late: bool) -> NotFoundError | None:
        """As many rows as can be taken; why there will never be more."""
        try:
            self._feed(batch, is_late=is_late)
        except UnavailableError as error:
            log.warning("rows have to wait", batch=batch.id, why=error.message)
        except NotFoundError as error:
            return error
        return None

    def _again(self, batch: Batch) -> Batch:
        """As it stands by now."""
        return self._batches.get(None, batch.id) or batch

    def _feed(self, batch: Batch, *, is_late: bool) -> None:
        """As many rows as there is time for. Raises UnavailableError: no more can be taken now."""
        until, most = time.monotonic() + _SLICE_S, self._most_fed(batch, is_late=is_late)
        if batch.row >= most:
            return
        begun = batch.row
        with self._places(batch) as places:
            within = islice(places, most - batch.row)
            some = ahead = self._read(batch, within, is_late=is_late)
            try:
                while some.places:
                    ahead = self._read(batch, within if time.monotonic() < until else (), is_late=is_late)
                    if (fed := self._feed_some(batch, some)) is None:
                        return
                    batch, some = fed, ahead
            finally:
                some.drop()
                ahead.drop()
        self._has_more |= begun < batch.row < most

    def _read(self, batch: Batch, places: Iterable[Place], *, is_late: bool) -> Some:
        """The next rows; others read them while the ones before them are submitted."""
        return self._rows.read(batch, list(islice(places, _FED)), is_late=is_late)

    def _most_fed(self, batch: Batch, *, is_late: bool) -> int:
        """The row up to which may be fed now: what has begun when a window closes is ended, so it must be little."""
        if is_late or batch.is_dry or Schedule.of(batch.metadata).window is None:
            return batch.total
        slots = sum(worker.slots for worker in self._ledger.workers())
        ended = batch.taken + len(self._batches.ended(batch, _TAKEN))
        return min(batch.total, ended + slots + _FED)

    def _feed_some(self, batch: Batch, some: Some) -> Batch | None:
        """The batch behind these rows; None: somebody else was quicker. Raises UnavailableError.

        Each round trip is written down by itself: where a later row has to wait, nothing is submitted untold.
        """
        each = iter(some)
        while rows := list(islice(each, _AT_ONCE)):
            lines, asked = list[str](), {model: list(sums) for model, sums in batch.asked.items()}
            for row, job in zip(rows, self._submitted(batch, rows), strict=True):
                if isinstance(job, Job):
                    of_model = asked.setdefault(job.model, [0, 0, 0])
                    sums = zip(of_model, (1, job.prompt_tokens, job.cost - job.prompt_tokens), strict=True)
                    asked[job.model] = [so_far + more for so_far, more in sums]
                if (line := self._line_at_once(batch, row, job)) is not None:
                    lines.append(line)
            last = rows[-1].place
            if not self._batches.fed(batch, last.row + 1, last.behind, asked, lines):
                return None
            batch = replace(batch, row=last.row + 1, offset=last.behind, asked=asked)
        return batch

    def _submitted(self, batch: Batch, rows: Sequence[Row]) -> Iterator[Job | ApiError]:
        """Their jobs, or why they cannot wait. Raises UnavailableError."""
        jobs = [row.job for row in rows if isinstance(row.job, Job)]
        if jobs and self._ledger.memory_fraction() > _ROOM * self._settings.limits.memory_fraction:
            raise StorageError("The storage has no room for more rows yet.")
        refusals = iter(len(jobs) * [None] if batch.is_dry else self._ledger.submit_each(jobs, self._settings.limits))
        return (row.job if isinstance(row.job, ApiError) else next(refusals) or row.job for row in rows)

    def _line_at_once(self, batch: Batch, row: Row, job: Job | ApiError) -> str | None:
        """Of a row that nobody works on; None: somebody does."""
        name = row_id(batch, row.place.row)
        if isinstance(job, Job):
            return told_line(name, row.line.custom_id, HTTPStatus.OK, _estimate(job)) if batch.is_dry else None
        if self._ledger.job(batch.owner, name) is not None:  # it was taken before, unrecorded
            return None
        return told_line(name, row.line.custom_id, job.status, job.body())

    # answers -------------------------------------------------------------------------------------------------------
    def _collect(self, batch: Batch, *, at_once: bool = False) -> None:
        """Write the lines of rows that have ended, once they are enough for a part of a file."""
        ended = self._batches.ended(batch, _TAKEN)
        if not ended or not (at_once or self._are_enough(batch, len(ended))):
            return
        answers = [self._answer(batch, one) for one in ended]
        outputs = [line for line, usage in answers if usage is not None]
        errors = [line for line, usage in answers if usage is None]
        segments = [
            self._files.part(batch.file(kind), "".join(some).encode()) if some else ""
            for kind, some in zip(FILES, (outputs, errors), strict=True)
        ]
        used = [usage for _, usage in answers if usage is not None]
        tokens = [sum(getattr(usage, name) for usage in used) for name in _USED]
        untold = set(_next_ids(batch)).intersection(ended)
        if self._batches.collected(batch, segments, (len(outputs), len(errors)), tokens, untold):
            self._show(batch)

    def _are_enough(self, batch: Batch, count: int) -> bool:
        """Few parts in the end, and nobody who looks on has to wait for long."""
        now = time.monotonic()
        is_due = now - self._written.setdefault(batch.id, now) >= _PART_S
        if is_due or count >= _TAKEN or _PARTS * count >= batch.taken or batch.taken + count >= batch.total:
            self._written[batch.id] = now
            return True
        return False

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

    def _answer(self, batch: Batch, ended: str) -> tuple[str, Usage | None]:
        """The line of a row, and what an answer has used; None: it is an error."""
        if ended.startswith("{"):
            return ended + "\n", Usage(0, 0) if batch.is_dry and _is_good(ended) else None
        job, watched = self._ledger.job(batch.owner, ended), self._ledger.read(batch.owner, ended, 0, _WHOLE_LOG)
        if job is None or watched is None:
            lost = InternalError("The storage has lost this line's answer.")
            return told_line(ended, "", lost.status, lost.body()) + "\n", None
        status, told, usage = _result(job, [entry.event for entry in watched.entries])
        return told_line(ended, job.custom_id, status, told) + "\n", usage

    # ends ----------------------------------------------------------------------------------------------------------
    def _wind_up(self, batch: Batch, end: BatchState) -> None:
        """Cancel what was fed and has not ended; write what has; then it is over. Needs no worker, room or file."""
        self._cancel(batch)
        self._collect(batch, at_once=True)
        batch = self._again(batch)
        if self._is_all_written(batch):
            self._end(batch, end)

    def _half_fed(self, batch: Batch) -> list[str]:
        """Jobs of which no step tells: whoever submitted them has died, or the cancel was quicker."""
        return [name for name in _next_ids(batch) if self._ledger.job(batch.owner, name) is not None]

    def _is_all_written(self, batch: Batch) -> bool:
        """Whether each row that was begun has its line."""
        return batch.taken >= batch.row + len(self._half_fed(batch))

    def _cancel(self, batch: Batch) -> None:
        """What was fed, from where we were the last time, for a while."""
        if batch.is_dry:
            return
        row, until = self._stopped.get(batch.id, 0), time.monotonic() + _SLICE_S
        while row < batch.row and time.monotonic() < until:
            self._ledger.cancel(batch.owner, row_id(batch, row))
            row += 1
        self._stopped[batch.id] = row
        for name in self._half_fed(batch):
            self._ledger.cancel(batch.owner, name)

    def _end(self, batch: Batch, end: BatchState, **told: str) -> None:
        self._stopped.pop(batch.id, None)
        self._written.pop(batch.id, None)
        self._show(batch)
        self._batches.move(batch, end, **told)
        log.info("batch ended", batch=batch.id, state=end, completed=batch.completed, failed=batch.failed)


def _next_ids(batch: Batch) -> list[str]:
    """Of rows that may have been submitted although no step tells."""
    return [row_id(batch, row) for row in range(batch.row, min(batch.total, batch.row + _FED))]


def _places(file: BinaryIO, batch: Batch) -> Iterator[Place]:
    number, row, offset = 0, batch.row, batch.offset
    while raw := file.readline(LINE_BYTES + 2):
        number += 1
        offset += len(raw)
        if raw.strip():
            yield Place(row, number, offset, raw.rstrip(b"\r\n"))
            row += 1


def _told(error: ApiError, line: int | None) -> dict[str, Any]:
    return {"code": error.actual_code, "message": error.message, "param": error.param, "line": line}


def _estimate(job: Job) -> dict[str, Any]:
    """What is known of a row before it is answered."""
    most = job.cost - job.prompt_tokens
    return {"object": "estimate", "model": job.model, "prompt_tokens": job.prompt_tokens, "max_completion_tokens": most}


def _is_good(line: str) -> bool:
    return bool(json.loads(line)["response"]["status_code"] == HTTPStatus.OK)


def _result(job: Job, events: Sequence[Event]) -> tuple[int, dict[str, Any], Usage | None]:
    end = events[-1] if events else None
    if isinstance(end, Failed):
        return end.status, end.body(), None
    if not isinstance(end, Done):
        raise StorageError("The log of an ended row has no end.")
    deltas = (event for event in events if isinstance(event, Delta))
    return HTTPStatus.OK, SHAPES[job.reply.kind].whole(job, deltas, end.usage), end.usage
