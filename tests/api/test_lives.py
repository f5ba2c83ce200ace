"""The threads of a front end live as long as it does, and so does what its streams read."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from api.feed import Feed
from api.hangup import Sweeper
from api.hub import Hub
from api.state import Pulse
from common.jobs import Entry, Job
from common.ledger.ledger import Ledger
from tests.api.hand import Hand
from tests.builders import a_job
from tests.waiting import PATIENCE_S, until


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """Redis itself, behind the ledger's back."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


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


def test_a_front_end_that_slept_until_it_was_forgotten_listens_again(
    hub: Sleeper, ledger: Ledger, opened: Callable[[Job], Feed]
) -> None:
    feed, hand = opened(a_job()), Hand(ledger)
    job = hand.claim()
    with ThreadPoolExecutor(1) as aside:
        reading = aside.submit(read, feed)
        (beat,) = ledger.front_end_beats()
        ledger.clear_front_end(beat)
        hand.text(job, "a")

        hub.at += 45
        hub.beat()

        assert [entry.seq for entry in reading.result(PATIENCE_S)] == [1]
    ledger.sweep(unwatched_s=0.0)
    assert hand.text(job, "b").cancelled == ()


def test_the_pulse_outlives_an_odd_answer(
    hub: Sleeper, ledger: Ledger, raw: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    raw.delete("{q00}:fes")
    raw.set("{q00}:fes", "not what a beat expects")
    pulse = Pulse(hub, ledger, ["m"])
    pulse.start()
    until(lambda: "this round failed" in capsys.readouterr().out)

    raw.delete("{q00}:fes")

    until(ledger.front_end_beats)
    pulse.close()


def test_hang_ups_are_seen_after_an_odd_answer(
    hub: Sleeper, ledger: Ledger, raw: Any, opened: Callable[[Job], Feed], capsys: pytest.CaptureFixture[str]
) -> None:
    feed = opened(a_job(grace_s=0.0))
    key = f"{{q00}}:j:{feed.job.id}"
    raw.rename(key, "{q00}:aside")
    raw.set(key, "not what a cancel expects")
    sweeper = Sweeper(ledger, hub)
    sweeper.start()
    sweeper.lost(feed)
    until(lambda: "this round failed" in capsys.readouterr().out)

    raw.rename("{q00}:aside", key)

    until(lambda: (record := ledger.record(feed.job.owner, feed.job.id)) and record.state == "cancelled")
    sweeper.close()
