import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from common.errors import StorageError
from common.jobs import CLASSES, Job, new_id
from common.ledger.ledger import Ledger
from ops.embedded import free_port
from tests.builders import a_job
from tests.common.ledger_audit import LIMITS, Hand, audit, said, texts
from tests.common.lossy import lossy

ALL_TRIES = 3
OWNERS = ("00" + "a" * 30, "01" + "a" * 30)


@pytest.fixture
def urls(redis_url: str) -> tuple[str, str]:
    """Two databases of one server: as far from each other as two servers are."""
    base = redis_url.rsplit("/", 1)[0]
    return f"{base}/0", f"{base}/1"


@pytest.fixture
def two(urls: tuple[str, str]) -> Iterator[Ledger]:
    """The ledger of two partitions."""
    ledger = Ledger(urls)
    yield ledger
    ledger.close()
    audit(urls[0], "{q00}")
    audit(urls[1], "{q01}")


def job_of(two: Ledger, owner: str) -> Job:
    job = a_job(id=new_id(two.partition(owner)), owner=owner, share=owner)
    two.submit(job, LIMITS, "f1")
    return job


def test_an_owners_jobs_live_where_its_hash_says(two: Ledger) -> None:
    jobs = [job_of(two, owner) for owner in OWNERS]

    assert [job.id[-2:] for job in jobs] == ["00", "01"]
    assert [two.job(owner, job.id) for owner, job in zip(OWNERS, jobs, strict=True)] == jobs
    assert [len(part.redis.keys(f"{part.tag}:j:*")) for part in two.partitions] == [1, 1]


def test_claims_come_from_the_partitions_in_turn(two: Ledger) -> None:
    for owner in OWNERS:
        for _ in range(3):
            job_of(two, owner)

    claims = [Hand(two).claim().job.owner for _ in range(6)]

    assert claims == [*OWNERS] * 3


def test_a_step_reaches_the_jobs_of_both(two: Ledger) -> None:
    jobs = [job_of(two, owner) for owner in OWNERS]
    hand = Hand(two)
    claims = [hand.claim() for _ in jobs]
    waiting = job_of(two, OWNERS[1])

    reply = hand.emit(*(said(claim, "a") for claim in claims))

    assert [texts(two, job) for job in jobs] == [["a"], ["a"]]
    assert reply.waiting["interactive"] == two.waiting("m")["interactive"] == 1
    assert two.place(OWNERS[1], waiting.id) is not None


def test_a_worker_lives_and_dies_in_both(two: Ledger) -> None:
    hand = Hand(two)
    for partition in range(2):
        two.beat(hand.info(), {}, partition=partition)
    jobs = [job_of(two, owner) for owner in OWNERS]
    for _ in jobs:
        hand.claim()

    beats = [two.worker_beats(partition) for partition in range(2)]
    given_back = two.reap("w1")

    assert [(beat.who, beat.partition) for (beat,) in beats] == [("w1", 0), ("w1", 1)]
    assert sorted(given_back) == sorted(job.id for job in jobs)
    assert [two.worker_beats(partition) for partition in range(2)] == [(), ()]


def test_a_cancel_is_heard_with_the_beat_of_its_partition(two: Ledger) -> None:
    jobs = [job_of(two, owner) for owner in OWNERS]
    hand = Hand(two)
    for _ in jobs:
        hand.claim()
    for job in jobs:
        two.cancel(job.owner, job.id)

    told = [two.beat(hand.info(), {}, partition=partition).cancelled for partition in range(2)]
    assert told == [(job.id,) for job in jobs]


def test_a_front_end_hears_both(two: Ledger) -> None:
    hand = Hand(two)
    bells = two.bells("f1")
    with closing(bells[0]), closing(bells[1]):
        bells[1].subscribe()
        job = job_of(two, OWNERS[1])
        hand.say(hand.claim(), "a")

        rings = bells[1].listen(2.0)

    assert rings is not None
    assert [ring.job_id for ring in rings] == [job.id]


def test_a_dead_partition_does_not_stop_the_claims_of_the_others(redis_url: str) -> None:
    with closing(Ledger((redis_url, f"redis://127.0.0.1:{free_port()}/0"))) as half:
        for _ in range(2):
            half.submit(a_job(), LIMITS)

        claims = [half.claim("w1", "m", CLASSES) for _ in range(2)]

        assert all(claims)


def test_a_partition_that_did_not_answer_is_passed_over_until_a_beat_finds_it_again(
    two: Ledger, urls: tuple[str, str]
) -> None:
    job = job_of(two, OWNERS[1])
    with lossy(urls[1]) as line, closing(Ledger((urls[0], line.url))) as far:
        far.beat(Hand(far).info(), {}, partition=1)  # the scripts are known to Redis
        line.losses = ALL_TRIES
        with pytest.raises(StorageError):
            far.claim("w1", "m", CLASSES)

        passed_over = far.claim("w1", "m", CLASSES)
        far.beat(Hand(far).info(), {}, partition=1)
        claim = far.claim("w1", "m", CLASSES)

    assert passed_over is None
    assert claim is not None
    assert claim.job == job


def test_hundreds_of_greenlets_share_the_connections(redis_url: str) -> None:
    script = """
from gevent import monkey; monkey.patch_all()
import sys
import gevent
from common.ledger.ledger import Ledger
from tests.builders import a_job
from tests.common.ledger_audit import LIMITS, Hand

ledger = Ledger((sys.argv[1],))
(bell,) = ledger.bells("f1")
bell.subscribe()
ear = gevent.spawn(bell.listen, 10.0)
jobs = [a_job() for _ in range(300)]
gevent.joinall([gevent.spawn(ledger.submit, job, LIMITS, "f1") for job in jobs], raise_error=True)
hand = Hand(ledger)
claim = hand.claim()
hand.say(claim, "a")
assert [ring.job_id for ring in ear.get()] == [claim.job.id]
print(ledger.waiting("m")["interactive"])
"""

    command = [sys.executable, "-W", "error", "-c", script, redis_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert (done.stdout, done.stderr) == ("299\n", "")
