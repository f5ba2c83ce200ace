import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from common.settings import bare_environment


class House:
    """A supervisor that runs, and what it and its programs said."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.ops.little_house", *words],
            stdout=subprocess.PIPE,
            text=True,
            env=bare_environment(),
        )
        self.said: list[str] = []

    def hear(self, part: str) -> str:
        """The next line with ``part`` in it."""
        for line in self.process.stdout or ():
            self.said.append(line.strip())
            if part in line:
                return line.strip()
        raise AssertionError((part, self.said))

    def pids(self, *names: str) -> list[int]:
        """Of those that come up next, in whatever order."""
        found: dict[str, int] = {}
        while not found.keys() >= set(names):
            name, _, pid = self.hear(" is up ").partition(" is up ")
            found[name] = int(pid)
        return [found[name] for name in names]

    def pid_of(self, name: str) -> int:
        return self.pids(name)[0]

    def end(self) -> int:
        """Read to the end; the exit status."""
        self.said += [line.strip() for line in self.process.stdout or ()]
        return self.process.wait()


Start = Callable[..., House]


@pytest.fixture
def start() -> Iterator[Start]:
    houses: list[House] = []

    def start(*words: str) -> House:
        houses.append(House(words))
        return houses[-1]

    yield start
    for house in houses:
        house.process.kill()
        house.process.wait()
        assert house.process.stdout
        house.process.stdout.close()


def _is_gone(pid: int, within_s: float = 5) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    gone = bool(select.select([descriptor], [], [], within_s)[0])
    os.close(descriptor)
    return gone


def test_what_dies_starts_again(start: Start) -> None:
    house = start("a:polite:1:5", "b:polite:1:5")
    pid, _ = house.pids("a", "b")

    os.kill(pid, signal.SIGKILL)

    house.hear("a: ended with status -9; starts again in 0.2 s")
    assert house.pid_of("a") != pid


def test_what_dies_again_and_again_starts_ever_later(start: Start) -> None:
    house = start("a:polite:1:5")

    for delay in ("0.2", "0.4", "0.8"):
        os.kill(house.pid_of("a"), signal.SIGKILL)
        house.hear(f"starts again in {delay} s")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_ends_everything_in_order(start: Start, number: signal.Signals) -> None:
    house = start("last:polite:3:5", "middle:polite:2:5", "first:polite:1:5")
    house.pids("first", "middle", "last")

    house.process.send_signal(number)

    assert house.end() == 0
    ends = [line for line in house.said if line.endswith(" ends")]
    assert ends == ["first ends", "middle ends", "last ends"]


def test_what_does_not_end_when_asked_is_killed(start: Start) -> None:
    house = start("a:stubborn:1:0.1")
    pid = house.pid_of("a")

    house.process.send_signal(signal.SIGINT)

    assert house.end() == 0
    assert "a: killed" in house.said
    assert _is_gone(pid)


def test_a_second_signal_ends_everything_at_once(start: Start) -> None:
    house = start("a:stubborn:1:50", "b:stubborn:2:50")
    pids = house.pids("a", "b")

    house.process.send_signal(signal.SIGINT)
    time.sleep(0.4)  # longer than one Ctrl-C may echo
    house.process.send_signal(signal.SIGINT)

    assert house.end() == 130
    assert all(map(_is_gone, pids))


def test_an_echo_of_the_signal_does_not_cut_the_end_short(start: Start) -> None:
    house = start("a:polite:1:5")
    house.pids("a")

    house.process.send_signal(signal.SIGINT)
    house.process.send_signal(signal.SIGTERM)

    assert house.end() == 0
    assert "a ends" in house.said


def test_what_starting_again_will_not_help_ends_everything(start: Start) -> None:
    house = start("a:polite:1:5", "b:unusable:2:5")

    assert house.end() == 2


def test_nothing_outlives_a_supervisor_that_is_killed(start: Start) -> None:
    house = start("a:polite:1:5")
    pid = house.pid_of("a")

    house.process.kill()

    assert _is_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_dead_program_started_goes_with_it(start: Start, number: signal.Signals) -> None:
    house = start("a:parent:1:5")
    child, parent = house.pids("child of a", "a")

    os.kill(parent, number)

    assert _is_gone(child)


def test_nobody_looking_does_not_end_the_service(start: Start) -> None:
    house = start("a:polite:1:5")
    pid = house.pid_of("a")
    assert house.process.stdout
    os.dup2(os.open(os.devnull, os.O_RDONLY), house.process.stdout.fileno())  # the reading end is gone

    os.kill(pid, signal.SIGKILL)  # it says so, to nobody
    house.process.send_signal(signal.SIGINT)

    assert house.process.wait(10) == 0
