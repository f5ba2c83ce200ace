"""Compares what clients wrote down with the ledger, and both with the answer that was known before. Pure, but for one
reading of Redis."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import redis

from common.jobs import Delta, Done, Event, Job, decode_event
from tests.chaos.history import ENDS_BADLY, MAY_BE_CANCELLED, History, Question, Reading

OPEN = ("queued", "running")


@dataclass(frozen=True)
class Stored:
    """One job as the ledger has it."""

    job_id: str
    name: str  # of the question
    state: str
    log: tuple[Event, ...]

    def texts(self, choices: int) -> list[str]:
        each = [""] * choices
        for event in self._deltas():
            each[event.choice] += event.text
        return each

    def tokens(self) -> int:
        return sum(len(event.tokens) for event in self._deltas())

    def shown(self) -> list[tuple[int, int, str]]:
        """Number, choice and text of the items that have a frame."""
        numbered = enumerate(self.log, 1)
        return [
            (at, one.choice, one.text) for at, one in numbered if isinstance(one, Delta) and (one.text or one.finish)
        ]

    def _deltas(self) -> Iterable[Delta]:
        return (event for event in self.log if isinstance(event, Delta))


def stored(url: str, tag: str = "{q00}") -> dict[str, Stored]:
    """Everything that the ledger keeps."""
    client: Any = redis.Redis.from_url(url)
    found = {}
    with client:
        for key in client.scan_iter(f"{tag}:j:*", count=1000):
            job_id = key.decode().rsplit(":", 1)[1]
            body, state = client.hmget(key, "body", "state")
            log = tuple(map(decode_event, client.lrange(f"{tag}:t:{job_id}", 0, -1)))
            name = Job.decode(body).reply.metadata.get("name", "")
            found[job_id] = Stored(job_id, name, state.decode(), log)
    return found


@dataclass
class Verdict:
    """What is wrong, each with a line that says where."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    repeats: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return {one.name: len(getattr(self, one.name)) for one in fields(self)}

    def is_good(self) -> bool:
        return not any(self.counts().values())


class Check:
    """One run's histories against its ledger."""

    def __init__(
        self, histories: Sequence[History], ledger: Mapping[str, Stored], answer: Callable[[Question], list[str]]
    ) -> None:
        self._histories, self._ledger, self._answer = histories, ledger, answer
        self.verdict = Verdict()

    def run(self) -> Verdict:
        asked = {history.question.name: history for history in self._histories}
        by_name: dict[str, list[Stored]] = defaultdict(list)
        for job in self._ledger.values():
            if job.name in asked:
                by_name[job.name].append(job)
                self._check_job(job, asked[job.name].question)
        for name, history in asked.items():
            self._check_once(by_name[name], history)
            self._check_end(history)
            for reading in history.readings:
                self._check_reading(reading, history)
            self._check_wholes(history)
        return self.verdict

    def _check_job(self, job: Stored, question: Question) -> None:
        """Its log alone."""
        where, answer, texts = f"{question.name} {job.job_id}", self._answer(question), job.texts(question.n)
        ends = [at for at, event in enumerate(job.log, 1) if not isinstance(event, Delta)]
        if job.state in OPEN:
            self.verdict.lost.append(f"{where}: still {job.state}")
        elif ends != [len(job.log)]:
            self.verdict.doubled.append(f"{where}: {len(job.log)} items, of which {ends} are ends")
        if job.tokens() > sum(max(len(one), question.tokens) for one in answer):
            self.verdict.doubled.append(f"{where}: {job.tokens()} tokens generated, {question.tokens} asked for")
        elif not all(one.startswith(text) for one, text in zip(answer, texts, strict=True)):
            self.verdict.changed.append(f"{where}: {texts} in the log, not {answer}")
        if job.state == "done" and (list(map(len, texts)) != list(map(len, answer)) or not self._counts_right(job)):
            self.verdict.changed.append(f"{where}: done with {texts}, not {answer}; {job.log[-1]}")

    @staticmethod
    def _counts_right(job: Stored) -> bool:
        end = job.log[-1]
        return isinstance(end, Done) and end.usage.completion_tokens == job.tokens()

    def _check_once(self, jobs: Sequence[Stored], history: History) -> None:
        """One result of each question."""
        good = [job.job_id for job in jobs if job.state == "done"]
        if len(good) > 1:
            self.verdict.doubled.append(f"{history.question.name}: done as {good}; {history.errors}")
        if len({whole.job_id for whole in history.wholes}) > 1:
            self.verdict.doubled.append(f"{history.question.name}: two answers, {history.wholes}")

    def _check_end(self, history: History) -> None:
        """Accepted means kept."""
        question, jobs = history.question, history.jobs()
        if not jobs:
            return
        for job_id in jobs:
            if job_id not in self._ledger:
                self.verdict.lost.append(f"{question.name} {job_id}: accepted, and not in the ledger")
                return
        state = self._ledger[jobs[-1]].state
        allowed = {"done"}
        if question.kind in MAY_BE_CANCELLED:
            allowed |= {"cancelled"}
        if question.kind in ENDS_BADLY:
            allowed = {"failed"}
        is_read = history.end in {"done", "left"} or (state != "done" and history.end == "failed")
        is_given_up = history.end == "refused" and question.kind == "again"  # its second try
        if state not in allowed or not (is_read or is_given_up):
            self.verdict.lost.append(
                f"{question.name} ({question.kind}) {jobs}: {state}, and for its client {history.end}; {history.errors}"
            )

    def _check_reading(self, reading: Reading, history: History) -> None:
        """A stream is a prefix of what is behind its number, and then all of it."""
        job = self._ledger.get(reading.job_id)
        if job is None:
            return
        where = f"{history.question.name} {reading.job_id} after {reading.after}"
        seen = [frame[0] for frame in reading.frames]
        expected = [frame for frame in job.shown() if frame[0] > reading.after]
        if reading.end != "done":
            expected = [one for one in expected if seen and one[0] <= max(seen)]
        numbers = [frame[0] for frame in expected]
        if len(set(seen)) < len(seen) or sorted(seen) != seen or (seen and seen[0] <= reading.after):
            self.verdict.repeats.append(f"{where}: {seen}")
        if missing := set(numbers) - set(seen):
            self.verdict.gaps.append(f"{where}: without {sorted(missing)}, {seen}; {reading.end}, {history.errors}")
        if strange := [one for one in reading.frames if one not in expected]:
            told = [one for one in expected if one[0] in {frame[0] for frame in strange[:3]}]
            self.verdict.changed.append(f"{where}: {strange[:3]}, in the log {told}")

    def _check_wholes(self, history: History) -> None:
        for whole in history.wholes:
            job = self._ledger.get(whole.job_id)
            texts = job and job.texts(history.question.n)
            if job and (whole.texts, whole.tokens) != (texts, job.tokens()):
                self.verdict.changed.append(f"{history.question.name} {whole.job_id}: {whole}, not {texts}")
