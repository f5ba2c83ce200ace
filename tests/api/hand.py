"""A worker driven by the test, call by call."""

from common.jobs import CLASSES, Delta, Done, Event, Failed, Job, Usage
from common.ledger.ledger import Ledger
from common.ledger.replies import Claim, Emission, EmitReply, End, WorkerInfo


class Hand:
    """Claims one job after the other and says what it is told to say."""

    def __init__(self, ledger: Ledger, name: str = "w1", model: str = "m") -> None:
        self.ledger, self.name, self.model = ledger, name, model
        self._claims: dict[str, Claim] = {}
        self._said: dict[str, int] = {}

    def beat(self, state: str = "ready") -> None:
        gauges = {"sequences_running": 2, "kv_blocks": 40, "kv_blocks_used": 10, "kv_blocks_cached": 5}
        info = WorkerInfo(self.name, self.model, 32, 32, state, None, gauges)  # type: ignore[arg-type]
        self.ledger.beat(info, {})

    def claim(self) -> Job:
        claim = self.ledger.claim(self.name, self.model, CLASSES)
        assert claim is not None
        self._claims[claim.job.id] = claim
        self._said[claim.job.id] = claim.seq
        return claim.job

    def say(self, job: Job, *events: Event) -> EmitReply:
        ends: dict[type, End] = {Done: "done", Failed: "failed"}
        items = tuple(event.encode() for event in events)
        emission = Emission(
            job.id,
            self._claims[job.id].epoch,
            self._said[job.id],
            items,
            tokens=self._said[job.id] + len(items),
            end=ends.get(type(events[-1])),
        )
        reply = self.ledger.emit(self.name, self.model, [emission])
        self._said[job.id] += len(items)
        return reply

    def text(self, job: Job, *pieces: str) -> EmitReply:
        return self.say(job, *(Delta(piece, (1,)) for piece in pieces))

    def end(self, job: Job, *pieces: str) -> EmitReply:
        said = [Delta(piece, (1,)) for piece in pieces]
        return self.say(job, *said, Delta("", (), finish="stop"), Done(Usage(3, self._said[job.id] + len(pieces))))

    def forget_said(self, job: Job, kept: int) -> None:
        """Say everything after ``kept`` again: Redis lost it."""
        self._said[job.id] = kept
