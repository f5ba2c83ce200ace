"""The threads of a front end live as long as it does, and so does what its streams read."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest

from api.feed import Feed
from api.hangup import Sweeper
from api.hub import Hub
from api.state import Pulse
from common.jobs import Entry, Job
from common.ledger.ledger import Ledger
from common.ledger.replies import Beat
from tests.api.hand import Hand
from tests.builders import a_job
from tests.waiting import PATIENCE_S, until


class Sleeper(Hub):
    """A front end that may sleep for long in no time."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger, lambda: self.at)

    at = 0.0


@pytest.fixture
def hub(ledger: Ledger) -> Iterator[Sleeper]:
    hub = Sleeper(ledger)
    hub.start()
    hub.wait_heard(0, 5)
    yield hub
    hub.close()


def read(feed: Feed) -> Sequence[Entry]:
    """What is said next; it is not looked for."""
    while not (entries := feed.read(2 * PATIENCE_S)):
        pass
    return entries


def beat_of(ledger: Ledger, hub: Hub) -> Beat | None:
    """Others may beat into the same server."""
    return next((beat for beat in ledger.front_end_beats() if beat.who == hub.front_end), None)


def test_a_front_end_that_slept_until_it_was_forgotten_listens_again(
    hub: Sleeper, ledger: Ledger, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job()), Hand(ledger)
    job = hand.claim()
    with ThreadPoolExecutor(1) as aside:
        reading = aside.submit(read, feed)
        beat = beat_of(ledger, hub)
        assert beat is not None
        ledger.clear_front_end(beat)
        hand.text(job, "a")

        hub.at += 45
        hub.beat()

        assert [entry.seq for entry in reading.result(PATIENCE_S)] == [1]
    ledger.sweep(unwatched_s=0.0)
    assert hand.text(job, "b").cancelled == ()


SUSPENDED = ("unshare", "--user", "--map-root-user", "--time", "--fork", "--boottime", "4500")  # for as many seconds
CLOCK = "inspect.signature(api.hub.Hub).parameters['clock'].default"


def test_a_front_end_slept_while_its_machine_was_suspended() -> None:
    if shutil.which(SUSPENDED[0]) is None or subprocess.run((*SUSPENDED, "true"), check=False).returncode:
        pytest.skip("the clocks of this machine cannot be set apart")

    ask = f"import inspect, time, api.hub; assert {CLOCK}() - time.monotonic() > 4000"

    subprocess.run((*SUSPENDED, sys.executable, "-c", ask), check=True)


def test_the_pulse_outlives_an_odd_answer(
    hub: Sleeper, ledger: Ledger, raw: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    raw.set("{q00}:fes", "not what a beat expects")
    pulse = Pulse(hub, ledger, ["m"])
    pulse.start()
    until(lambda: "this round failed" in capsys.readouterr().out)

    raw.delete("{q00}:fes")

    until(lambda: beat_of(ledger, hub))
    pulse.close()


def is_cancelled(ledger: Ledger, job: Job) -> bool:
    record = ledger.record(job.owner, job.id)
    return record is not None and record.state == "cancelled"


def test_hang_ups_are_seen_behind_and_after_an_odd_answer(
    hub: Sleeper, ledger: Ledger, raw: Any, opened: Callable[[Job], Feed], capsys: pytest.CaptureFixture[str]
) -> None:
    odd, behind, after = (opened(a_job(grace_s=0.0)) for _ in range(3))
    key = f"{{q00}}:j:{odd.job.id}"
    raw.rename(key, "{q00}:aside")
    raw.set(key, "not what a cancel expects")
    sweeper = Sweeper(ledger, hub)
    for feed in (odd, behind):
        sweeper.lost(feed)
    sweeper.start()
    until(lambda: is_cancelled(ledger, behind.job))

    sweeper.lost(after)  # is swept in another round

    until(lambda: is_cancelled(ledger, after.job))
    sweeper.close()
    assert capsys.readouterr().out.count("job not cancelled") == 1
    raw.rename("{q00}:aside", key)


class Nameless(Ledger):
    """One that fails to name an orphan, in a way that nobody foresaw."""

    def __init__(self, url: str) -> None:
        super().__init__((url,))
        self.asked: Callable[[], None] = lambda: None

    def orphan(self, job: Job, name: str) -> None:
        self.asked()
        raise LookupError(job.id, name)


def test_all_that_hang_up_in_one_round_are_told_whatever_becomes_of_their_jobs(
    hub: Sleeper, redis_url: str, opened: Callable[[Job], Feed]
) -> None:
    told: list[int] = []
    with closing(Nameless(redis_url)) as nameless, ExitStack() as ends:
        sweeper = Sweeper(nameless, hub)
        feeds = [opened(a_job(grace_s=0.0)) for _ in range(2)]
        nameless.asked = lambda: told.append(sum(feed.is_gone for feed in feeds))
        for feed in feeds:
            ours, theirs = socket.socketpair()
            ends.enter_context(ours)
            sweeper.watch(feed, ours)
            theirs.close()
            feed.orphan = "a" * 64

        sweeper.start()
        until(lambda: all(is_cancelled(nameless, feed.job) for feed in feeds))
        sweeper.close()
    assert told == [1, 2]  # a reader is told before the storage is
