"""Who runs: first come, first served within a class, a higher class first. Plain bookkeeping, no clock of its own.

Jobs stay here from claim to end. Their sequences enter one by one as slots free; parking takes them out of their slots
and keeps their tokens, so that they come back where they stood in the queue.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from common.jobs import CLASSES, Class
from worker.engine.blocks import Blocks, OutOfBlocksError
from worker.engine.sequence import Sequence
from worker.engine.work import Work

_FEW = 4  # sequences: with more, each token of a step costs as much as the next
_GUESSED = 7  # tokens at most
_AHEAD = 64  # tokens of an answer for which there must be blocks when a sequence enters
_CLAIM_S = 0.05  # from the end of a job to the first step of the one that is claimed for its slot
_KEPT, _KEPT_S = 10, 10.0  # one slot in so many, or one, is kept for a class' turn, and for so long
_PATIENT = 2  # steps for which the lowest class waits in a row
_RANK = {cls: rank for rank, cls in enumerate(CLASSES)}


@dataclass(frozen=True, slots=True)
class Room:
    """What the intake must know before it claims."""

    slots: int
    free: int  # after all claimed jobs have theirs; below 0 when they cannot
    entering: frozenset[Class]  # classes with a claimed job that is not wholly in
    lowest: Class | None  # of those that run
    keeps: bool = True  # one more job for which it is its class' turn
    soon: int = 0  # slots that will be free by the time that a claim for them is here


class Scheduler:
    """All claimed jobs, and the slots."""

    def __init__(self, slots: int, blocks: Blocks | None = None) -> None:
        self._slots, self._blocks = slots, blocks
        self._most = slots  # sequences that run; fewer while memory is short
        self.parked = 0  # jobs that had to wait again
        self._free = list(range(slots - 1, -1, -1))  # the lowest is taken first
        self._gives_way = self._stays = False  # the step under way, for a higher class; the next one does not
        self._waited = 0  # steps in a row that the lowest class was left out of, or broken off in
        self._left: list[int] = []  # given up, but the model does not know it yet
        self._works: dict[str, Work] = {}
        self._running: list[Sequence] = []  # in order of entry

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._works

    def __len__(self) -> int:
        return len(self._works)

    def __iter__(self) -> Iterator[Work]:
        return iter(self._works.values())

    def __getitem__(self, job_id: str) -> Work:
        return self._works[job_id]

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences in slots, in order of entry."""
        return tuple(self._running)

    def due(self) -> Iterable[Sequence]:
        """Who reads in this step: those that decode, then prompts in their turn; a suspect's prompt alone.

        Where others have a prompt to be read, the lowest class waits for them, but not for a third step in a row.
        """
        works = [(self._works[sequence.job_id], sequence) for sequence in self._running]
        reading = sorted((one for one in works if one[1].is_reading), key=lambda one: _turn(one[0]))
        if alone := [sequence for work, sequence in reading if work.is_suspect]:
            self._gives_way = False
            return alone[:1]
        due = [*(one for one in works if not one[1].is_reading), *reading]
        higher = [sequence for work, sequence in due if work.cls != CLASSES[-1]]
        self._gives_way = bool(due) and not higher and not self._waited and not self._stays
        self._stays = False
        if any(sequence.is_reading for sequence in higher) and self._waited < _PATIENT:
            self._waited += len(higher) < len(due)
            return higher
        self._waited = 0
        return [sequence for _, sequence in due]

    def gives_way(self, cls: Class) -> bool:
        """Whether the step under way is to be broken off for a job of this class that comes now."""
        return self._gives_way and cls != CLASSES[-1]

    def stays(self) -> None:
        """The step that is planned next is not broken off."""
        self._stays = True

    def gave_way(self) -> None:
        """It was, and read nothing; the one behind the next is not."""
        self._waited = 1

    def add(self, work: Work, now: float) -> None:
        """A job joins the queue of its class; one of the lowest may have come too early, and counts as parked."""
        if work.claim.is_kept and self._keeps():
            work.kept_until = now + _KEPT_S
        work.parked_at = now if work.cls == CLASSES[-1] else None
        self._works[work.claim.job.id] = work

    def remove(self, job_id: str, *, is_sound: bool = True) -> None:
        """A job is over; its slots are free. What one that is not sound has read is not found again."""
        for sequence in tuple(self._works.pop(job_id).running()):
            self._vacate(sequence, is_sound=is_sound)
        if not self._works:
            self._most = self._slots

    def leave(self, sequence: Sequence, now: float) -> None:
        """A finished sequence gives its slot up."""
        self._vacate(sequence)
        work = self._works[sequence.job_id]
        if not any(work.running()):
            work.clock.stop(now)

    def vacated(self) -> list[int]:
        """The slots given up since the last call; they may be given out again from now on."""
        left, self._left = self._left, []
        self._free += left
        return left

    def admit(self, tokens: int, now: float) -> list[Sequence]:
        """Give free slots to those whose turn it is, at least one, until about so many tokens are to be read.

        A suspect enters alone: if the step kills this process, everybody knows who did it. Nobody enters for whom there
        are not blocks enough, even when lower classes give theirs, and nobody behind them; choices of a prompt that is
        being read wait for its blocks.
        """
        admitted: list[Sequence] = []
        self._let_go(now)
        for work in self._queue() if self._has_place() else ():
            for sequence in tuple(work.waiting()):
                if 0 < self._unread_before(work) >= tokens:
                    return admitted
                if admitted and work.is_suspect:
                    return admitted
                if self._is_read_by_a_mate(work, sequence):
                    continue
                if not self._let_in(work, sequence, now):
                    return admitted
                admitted.append(sequence)
                if work.is_suspect or not self._has_place():
                    return admitted
        return admitted

    def late(self, now: float) -> Iterator[Sequence]:
        """Who has no slot, and no time left to wait for one; whoever asks may remove a job meanwhile."""
        for work in tuple(self._works.values()):
            if work.clock.is_up(now):
                yield from (sequence for sequence in work.waiting() if sequence.job_id in self._works)

    def grow(self, sequence: Sequence, tokens: int, now: float) -> bool:
        """Have blocks for so many tokens of a sequence, if others must give way for it; False: it gave way itself."""
        blocks = self._blocks
        while blocks is not None and (lacking := blocks.need(tokens) - len(sequence.blocks)) > 0:
            try:
                sequence.blocks += blocks.take(lacking)
            except OutOfBlocksError:
                self._park(max(self._works_running(), key=_turn), now)
                if sequence.slot is None:
                    return False
        return True

    def guess(self, sequence: Sequence, now: float) -> tuple[int, ...]:
        """What it will say, perhaps: where few run, to read some tokens more costs little. Nobody gives way for it."""
        if self._blocks is None or len(self._running) > _FEW:
            return ()
        guess = sequence.guess(_GUESSED)
        end = sequence.read + 1 + len(guess)
        if not guess or self._blocks.need(end) - len(sequence.blocks) > self._blocks.available:
            return ()
        self.grow(sequence, end, now)
        return guess

    def note(self, sequence: Sequence) -> None:
        """It has read more: its full blocks are found by others from now on."""
        if self._blocks is not None:
            for block, name in sequence.filled(self._blocks.size):
                self._blocks.name(block, name)

    def park(self, slots: int, below: Class, now: float) -> int:
        """Take the newest whole jobs of classes under ``below`` out until a job of that class finds so many slots."""
        before = self.parked
        while self._free_for(below) < slots and self._park_one(below, now):
            pass
        return self.parked - before

    def shrink(self, now: float) -> None:
        """Memory is short: the newest job of the lowest class waits, unless it is alone, and nobody takes its place."""
        works = self._works_running()
        if len(works) > 1:
            self._park(max(works, key=_turn), now)
        self._most = max(1, len(self._running))

    def parked_before(self, then: float) -> list[Work]:
        """The jobs that have had no slot since then."""
        return [work for work in self._works.values() if work.parked_at is not None and work.parked_at <= then]

    def room(self, ends_per_s: float | None) -> Room:
        """What is left, and for whom, where so many slots become free in a second."""
        entering = frozenset(work.cls for work in self._queue())
        running = {self._works[sequence.job_id].cls for sequence in self._running}
        lowest = max(running, key=_RANK.__getitem__, default=None)
        soon = min(self._slots, round(_CLAIM_S * (ends_per_s or 0)))
        return Room(self._slots, self._free_for(CLASSES[-1]), entering, lowest, self._keeps(), soon)

    def gauges(self) -> dict[str, int]:
        """What is in use."""
        told = {"sequences_running": len(self._running)}
        if (blocks := self._blocks) is not None:
            used = blocks.count - blocks.available
            told |= {"kv_blocks": blocks.count, "kv_blocks_used": used, "kv_blocks_cached": blocks.kept}
        return told

    def _keeps(self) -> bool:
        kept = sum(len(one.sequences) for one in self._works.values() if one.kept_until is not None)
        return kept < max(1, self._slots // _KEPT)

    def _let_go(self, now: float) -> None:
        """Who was kept for long enough gives way again."""
        for work in self._works.values():
            if work.kept_until is not None and now >= work.kept_until:
                work.kept_until = None

    def _queue(self) -> list[Work]:
        """The jobs with sequences that want a slot, in their turn."""
        return sorted((work for work in self._works.values() if any(work.waiting())), key=_turn)

    def _free_for(self, cls: Class) -> int:
        """The slots left when all who come before a new job of this class have theirs."""
        before = (work for work in self._works.values() if _RANK[work.cls] <= _RANK[cls])
        places = len(self._free) + len(self._left) - (self._slots - self._most)
        return places - sum(1 for work in before for _ in work.waiting())

    def _has_place(self) -> bool:
        return bool(self._free) and len(self._running) < self._most

    def _park(self, work: Work, now: float) -> None:
        for sequence in tuple(work.running()):
            self._vacate(sequence)
        work.clock.stop(now)
        work.parked_at = now
        self.parked += 1

    def _unread_before(self, work: Work) -> int:
        """Tokens that those who run and come first have still to read."""
        turn = _turn(work)
        first = (one for one in self._running if one.is_reading and _turn(self._works[one.job_id]) <= turn)
        return sum(sequence.left for sequence in first)

    def _park_one(self, below: Class, now: float) -> bool:
        """The newest job of the lowest class, if that is a lower one."""
        lower = [work for work in self._works_running() if _RANK[work.cls] > _RANK[below]]
        if lower:
            self._park(max(lower, key=_turn), now)
        return bool(lower)

    def _works_running(self) -> list[Work]:
        return list({sequence.job_id: self._works[sequence.job_id] for sequence in self._running}.values())

    def _is_read_by_a_mate(self, work: Work, sequence: Sequence) -> bool:
        if self._blocks is None or len(sequence.prompt) <= self._blocks.size:
            return False
        return any(mate.prompt is sequence.prompt and mate.read < len(mate.prompt) for mate in work.running())

    def _let_in(self, work: Work, sequence: Sequence, now: float) -> bool:
        """Lower classes give way for its blocks."""
        while not self._enter(work, sequence):
            if not self._park_one(work.cls, now):
                return False
        work.clock.start(now)
        return True

    def _enter(self, work: Work, sequence: Sequence) -> bool:
        """Into a slot, behind the blocks that hold its beginning already; False when there are too few."""
        read = 0
        if self._blocks is not None:
            found = self._blocks.find(sequence.names(self._blocks.size))
            lacking = self._blocks.need(len(sequence) + sequence.ahead(_AHEAD)) - len(found)
            if lacking > self._blocks.available:
                self._blocks.release(found)
                return False
            sequence.blocks = found + self._blocks.take(self._blocks.need(len(sequence)) - len(found))
            read = len(found) * self._blocks.size
        sequence.enter(self._free.pop(), read)
        work.parked_at = None
        self._running.append(sequence)
        return True

    def _vacate(self, sequence: Sequence, *, is_sound: bool = True) -> None:
        if sequence.slot is None:
            return
        if self._blocks is not None:
            self._blocks.release(sequence.blocks, keep=is_sound)
            sequence.blocks = []
        self._left.append(sequence.slot)
        sequence.slot = None
        self._running.remove(sequence)


def _turn(work: Work) -> tuple[int, int]:
    return _RANK[work.cls], work.order
