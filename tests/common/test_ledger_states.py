"""The ledger against a plain Python model of itself, in whatever order Hypothesis likes."""

from dataclasses import dataclass, field

import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from common.jobs import CLASSES, Class, Job
from common.ledger.ledger import Ledger
from common.ledger.replies import Claim
from tests.builders import OWNER, a_job
from tests.common.ledger_audit import LIMITS, Hand, audit, done, said, texts

POISONED = 3
MOST_WATCHERS = 4
NEWEST = st.integers(0, 4)  # most happens to the last few
WORKERS = st.sampled_from(["w1", "w2"])
FRONT_ENDS = st.sampled_from(["f1", "f2", "f3", "f4", "f5"])


@dataclass
class Model:
    """What we believe of a job."""

    job: Job
    state: str = "queued"
    epoch: int = 0
    worker: str = ""
    log: list[str] = field(default_factory=list)
    said_at_claim: int = 0
    attempts: int = 0
    is_cancelled: bool = False
    watchers: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        return self.state in {"queued", "running"}

    def end(self, state: str) -> None:
        self.log.append("done" if state == "done" else "failed")
        self.state = state
        self.watchers.clear()

    def hand_back(self, hot: bool) -> None:  # noqa: FBT001  as the rule draws it
        self.epoch += 1
        if hot:
            self.attempts = 1 if len(self.log) > self.said_at_claim else self.attempts + 1
        if self.attempts >= POISONED:
            self.end("failed")
        elif self.is_cancelled:
            self.end("cancelled")
        else:
            self.state = "queued"


class Machine(RuleBasedStateMachine):
    """Every call, in any order, with any stale claim."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
        self.ledger = Ledger((self.url,))
        self.jobs: dict[str, Model] = {}
        self.claims: list[tuple[str, Claim]] = []

    def teardown(self) -> None:
        self.ledger.close()

    def a_job(self, number: int) -> Model:
        return list(self.jobs.values())[-1 - number % len(self.jobs)]

    def a_claim(self, number: int) -> tuple[str, Claim]:
        return self.claims[-1 - number % len(self.claims)]

    def has_jobs(self) -> bool:
        return bool(self.jobs)

    def has_claims(self) -> bool:
        return bool(self.claims)

    @initialize()
    def begin(self) -> None:
        for front_end in ("f1", "f2"):
            self.submit("a", "interactive", priority=False, finishes=False, front_end=front_end)
            self.claim("w1")

    @rule(
        share=st.sampled_from("ab"),
        cls=st.sampled_from(CLASSES),
        priority=st.booleans(),
        finishes=st.booleans(),
        front_end=FRONT_ENDS | st.none(),
    )
    def submit(self, share: str, cls: Class, *, priority: bool, finishes: bool, front_end: str | None) -> None:
        how = "finish" if finishes else "cancel"
        job = a_job(share=share * 32, cls=cls, priority=priority, on_disconnect=how)
        self.ledger.submit(job, LIMITS, front_end)
        self.jobs[job.id] = Model(job, watchers={front_end} if front_end else set())

    @precondition(has_jobs)
    @rule(number=NEWEST)
    def submit_again(self, number: int) -> None:
        self.ledger.submit(self.a_job(number).job, LIMITS)

    @rule(worker=WORKERS)
    def claim(self, worker: str) -> None:
        waiting = [model for model in self.jobs.values() if model.state == "queued"]
        claim = self.ledger.claim(worker, "m", CLASSES, has_room=False)
        assert (claim is not None) == bool(waiting)
        if claim is not None:
            model = self.jobs[claim.job.id]
            model.epoch += 1
            assert model in waiting
            assert CLASSES.index(model.job.cls) == min(CLASSES.index(one.job.cls) for one in waiting)
            assert (claim.epoch, claim.attempts) == (model.epoch, model.attempts)
            assert [delta.text for delta in claim.said] == model.log
            model.state, model.worker, model.said_at_claim = "running", worker, len(model.log)
            self.claims.append((worker, claim))

    @precondition(has_claims)
    @rule(number=NEWEST, back=st.integers(0, 2), count=st.integers(1, 3), end=st.integers(0, 3), stranger=NEWEST)
    def emit(self, number: int, back: int, count: int, end: int, stranger: int) -> None:
        worker, claim = self.a_claim(number)
        worker = "w3" if stranger == 1 else worker
        ends = end == 1
        model = self.jobs[claim.job.id]
        after = max(0, len(model.log) - back)
        emission = done(claim, after) if ends else said(claim, *"abc"[:count], after=after)
        reply = Hand(self.ledger, worker).emit(emission)
        told = (reply.fenced, reply.gone, reply.behind)
        if (model.epoch, model.worker) != (claim.epoch, worker):
            assert told == ((claim.job.id,), (), {})
        elif after + len(emission.items) == len(model.log):
            assert told == ((), (), {})  # looks like the same step again
        elif model.state != "running":
            assert told == ((claim.job.id,), (), {})
        elif after != len(model.log):
            assert told == ((), (), {claim.job.id: len(model.log)})
        elif ends:
            model.end("cancelled" if model.is_cancelled else "done")
        else:
            model.log += "abc"[:count]

    @precondition(has_claims)
    @rule(number=NEWEST)
    def release(self, number: int) -> None:
        worker, claim = self.a_claim(number)
        model = self.jobs[claim.job.id]
        self.ledger.release(worker, [(claim.job.id, claim.epoch, 0)])
        if (model.state, model.epoch, model.worker) == ("running", claim.epoch, worker):
            model.hand_back(hot=False)

    @rule(worker=WORKERS, hot=st.booleans())
    def reap(self, worker: str, *, hot: bool) -> None:
        mine = [model for model in self.jobs.values() if (model.state, model.worker) == ("running", worker)]
        ids = [model.job.id for model in mine]
        assert sorted(self.ledger.reap(worker, ids if hot else ())) == sorted(ids)
        for model in mine:
            model.hand_back(hot=hot)

    @precondition(has_jobs)
    @rule(number=NEWEST)
    def cancel(self, number: int) -> None:
        model = self.a_job(number)
        if model.state == "queued":
            model.end("cancelled")
        model.is_cancelled |= model.state == "running"
        assert self.ledger.cancel(OWNER, model.job.id) == model.state

    @precondition(has_jobs)
    @rule(number=NEWEST, front_end=FRONT_ENDS)
    def watch(self, number: int, front_end: str) -> None:
        model = self.a_job(number)
        watched = self.ledger.watch(OWNER, model.job.id, front_end)
        if model.is_open and len(model.watchers) < MOST_WATCHERS:
            model.watchers.add(front_end)
        assert watched is not None
        assert (watched.state, watched.seq, watched.epoch) == (model.state, len(model.log), model.epoch)
        assert watched.is_heard == (front_end in model.watchers)

    @precondition(has_jobs)
    @rule(number=NEWEST, front_end=FRONT_ENDS)
    def unwatch(self, number: int, front_end: str) -> None:
        model = self.a_job(number)
        self.ledger.unwatch(model.job.id, front_end)
        model.watchers.discard(front_end)

    @rule()
    def a_front_end_dies(self) -> None:
        for beat in self.ledger.front_end_beats()[:1]:
            self.ledger.clear_front_end(beat)
            for model in self.jobs.values():
                model.watchers.discard(beat.who)

    @rule()
    def sweep(self) -> None:
        self.ledger.sweep(unwatched_s=0.0)
        for model in self.jobs.values():
            if model.job.on_disconnect == "cancel" and not model.watchers:
                if model.state == "queued":
                    model.end("cancelled")
                model.is_cancelled |= model.state == "running"

    @rule(worker=WORKERS)
    def beat(self, worker: str) -> None:
        reply = self.ledger.beat(Hand(self.ledger, worker).info(), {})
        cancelled = [one.job.id for one in self.jobs.values() if one.is_cancelled and one.state == "running"]
        assert sorted(reply.cancelled) == sorted(one for one in cancelled if self.jobs[one].worker == worker)

    @invariant()
    def logs_and_keys_agree(self) -> None:
        audit(self.url)
        for model in self.jobs.values():
            assert texts(self.ledger, model.job) == model.log


def test_any_order_of_calls_leaves_the_ledger_whole(redis_url: str) -> None:
    machine = type("Here", (Machine,), {"url": redis_url})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # shrinking takes longer than a test may
            suppress_health_check=list(HealthCheck),
        ),
    )
