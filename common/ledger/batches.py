"""Batches in Redis: each lives in its owner's partition, beside its rows."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, cast, get_args

from common.errors import RateLimitError
from common.jobs import strip_prefix
from common.ledger import keys, wire
from common.ledger.ledger import Ledger
from common.ledger.partition import Partition
from common.ledger.replies import NEVER_AGAIN, Once

PREFIX = "batch_"
BatchState = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
FileKind = Literal["output", "error"]
FILES: tuple[FileKind, ...] = ("output", "error")
ENDS = ("failed", "completed", "expired", "cancelled")
_JSON = ("asked", "metadata", "errors")
_TOKENS = ("input_tokens", "cached_tokens", "output_tokens")
_COUNTED = {"id", "times", "row", "offset", "taken", "completed", "failed", *_TOKENS}


@dataclass(frozen=True, slots=True)
class Batch:
    """One, as it stands now; times are Unix seconds."""

    id: str  # bare
    owner: str
    input_file: str
    endpoint: str
    window: str
    created: int
    expires: int
    state: BatchState = "validating"
    weight: float = 1.0
    has_output: int = 0
    has_error: int = 0
    keep_s: int = 0  # of the files with its answers; 0: for ever
    total: int = 0
    row: int = 0  # the next one to be submitted
    offset: int = 0  # where it begins in the input file
    taken: int = 0  # rows whose lines are written
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0  # of those that are completed
    cached_tokens: int = 0
    output_tokens: int = 0
    asked: dict[str, list[int]] = field(default_factory=dict)  # model -> fed rows, their tokens, most of their answers
    metadata: dict[str, str] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)  # state -> since when

    @property
    def is_dry(self) -> bool:
        """Its lines are looked at, and none is answered."""
        return self.metadata.get("dry_run") == "true"

    def file(self, kind: FileKind) -> str:
        """The id of the file with its answers, or its errors."""
        return f"file-{hashlib.blake2b(f'{self.id} {kind}'.encode(), digest_size=16).hexdigest()}00"

    @classmethod
    def read(cls, batch_id: str, raw: Mapping[bytes, bytes]) -> "Batch":
        """As Redis keeps it."""
        told: dict[str, Any] = {name.decode(): value.decode() for name, value in raw.items()}
        times = {name: int(told[f"{name}_at"]) for name in get_args(BatchState) if f"{name}_at" in told}
        plain = {one.name: one.type for one in fields(cls) if one.name in told}
        read = {
            name: json.loads(told[name]) if kind in {int, float} or name in _JSON else told[name]
            for name, kind in plain.items()
        }
        return cls(**read | {"id": batch_id, "times": times})


class Batches:
    """All of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def known(self, owner: str, once: Once) -> str | None:
        """The id of the batch that an equal request made. Raises ConflictError."""
        part = self._ledger.partitions[self._ledger.partition(owner)]
        return wire.standing(part.run("put_batch", "", owner, 0, once.key, once.digest)) if once.key else None

    def put(self, batch: Batch, most: int, once: Once = NEVER_AGAIN) -> str:
        """Keep a new one, unless an equal request made one; the id of what stands.

        Raises RateLimitError where too many are open, and ConflictError.
        """
        told = {one.name: getattr(batch, one.name) for one in fields(batch) if one.name not in _COUNTED}
        told |= {name: json.dumps(told[name]) for name in _JSON}
        head = (batch.id, batch.owner, most, once.key, once.digest)
        stands = wire.standing(self._of(batch.id).run("put_batch", *head, *_flat(told)))
        if stands is None:
            raise RateLimitError(f"{most} batches of yours are open; wait until one has ended.", retry_after_s=60)
        return stands

    def get(self, owner: str | None, batch_id: str) -> Batch | None:
        """None: not here, or not this owner's; without one, whoever's it is."""
        part = self._of(batch_id)
        raw = part.ask(lambda: part.redis.hgetall(keys.batch(part.tag, batch_id)))
        batch = Batch.read(batch_id, raw) if raw else None
        return batch if batch is not None and owner in {None, batch.owner} else None

    def every(self, owner: str, after: str | None = None) -> Iterator[Batch]:
        """An owner's, the newest first; behind one of them."""
        part = self._ledger.partitions[self._ledger.partition(owner)]
        ids: list[bytes] = part.ask(lambda: part.redis.zrevrange(keys.batches_of(part.tag, owner), 0, -1))
        start = ids.index(after.encode()) + 1 if after is not None and after.encode() in ids else 0
        for batch_id in ids[start:]:
            if (batch := self.get(owner, batch_id.decode())) is not None:
                yield batch

    def open(self, partition: int) -> list[str]:
        """Those that have not ended, in one partition."""
        part = self._ledger.partitions[partition]
        return sorted(one.decode() for one in part.ask(lambda: part.redis.smembers(keys.open_batches(part.tag))))

    def move(self, batch: Batch, to: BatchState, **told: Any) -> bool:
        """From the state that we know to the next; False: it has gone on without us."""
        told |= {f"{to}_at": int(time.time())}
        ends = "1" if to in ENDS else ""
        return bool(self._of(batch.id).run("move_batch", batch.id, batch.state, to, ends, *_flat(told)))

    def fed(
        self, batch: Batch, row: int, offset: int, asked: Mapping[str, Sequence[int]], lines: Sequence[str]
    ) -> bool:
        """Rows before this one are submitted, or ended as these lines; False: somebody was quicker."""
        told = (row, offset, json.dumps(asked))
        return bool(self._of(batch.id).run("feed_batch", batch.id, batch.row, *told, *lines))

    def ended(self, batch: Batch, most: int) -> list[str]:
        """The first rows that have ended and whose lines are not written: job ids, or errors."""
        part = self._of(batch.id)
        found: list[bytes] = part.ask(lambda: part.redis.lrange(keys.ended(part.tag, batch.id), 0, most - 1))
        return [one.decode() for one in found]

    def collected(
        self,
        batch: Batch,
        segments: Sequence[str],
        rows: tuple[int, int],
        tokens: Sequence[int],
        untold: Iterable[str] = (),
    ) -> bool:
        """So many more rows are completed and failed, and their lines lie in these output and error segments.

        With the tokens of the completed ones: input, cached, output. ``untold``: those among them that are not fed yet
        as far as the batch knows; they are submitted again, and must be found. False: somebody was quicker.
        """
        run = partial(self._of(batch.id).run, "collect_batch", batch.id, batch.taken, batch.row, sum(rows))
        return bool(run(*segments, *rows, *tokens, *untold))

    def segments(self, batch: Batch, kind: FileKind) -> list[str]:
        """Where its written lines lie, in order."""
        part = self._of(batch.id)
        key = keys.segments(part.tag, batch.id, kind)
        return [one.decode() for one in part.ask(partial(part.redis.lrange, key, 0, -1))]

    def _of(self, batch_id: str) -> Partition:
        number = int(batch_id[-2:], 16)
        parts = self._ledger.partitions
        return parts[number] if number < len(parts) else parts[0]


def bare(public_id: str) -> str | None:
    """The id without its prefix; None for what is none."""
    return strip_prefix(public_id, (PREFIX,))


def _flat(told: Mapping[str, Any]) -> list[str | int | float]:
    return [cast("str | int | float", text) for pair in told.items() for text in pair]
