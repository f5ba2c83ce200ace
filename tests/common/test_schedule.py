"""When a batch may run."""

from datetime import UTC, datetime

import pytest

from common.protocol.schedule import Schedule, Window

NIGHT = Window.parse("22:00-06:00 Europe/Berlin")


def at(told: str) -> float:
    return datetime.fromisoformat(told).timestamp()


@pytest.mark.parametrize(
    ("moment", "opens"),
    [
        ("2026-11-30T21:59:59+01:00", "2026-11-30T22:00:00+01:00"),
        ("2026-11-30T22:00:00+01:00", "2026-11-30T22:00:00+01:00"),
        ("2026-12-01T05:59:59+01:00", "2026-12-01T05:59:59+01:00"),
        ("2026-12-01T06:00:00+01:00", "2026-12-01T22:00:00+01:00"),
        ("2026-07-01T20:00:00+00:00", "2026-07-01T20:00:00+00:00"),  # in summer it is ten there by now
        ("2026-12-01T20:00:00+00:00", "2026-12-01T21:00:00+00:00"),
    ],
)
def test_a_window_goes_by_the_clocks_of_its_zone(moment: str, opens: str) -> None:
    assert NIGHT.opens_at(at(moment)) == at(opens)
    assert NIGHT.is_open(at(moment)) == (moment == opens)


@pytest.mark.parametrize(
    ("moment", "hours"),
    [("2026-03-28T22:00:00+01:00", 7), ("2026-10-24T22:00:00+02:00", 9), ("2026-11-24T22:00:00+01:00", 8)],
)
def test_a_night_is_as_long_as_its_clocks_say(moment: str, hours: int) -> None:
    """The two in which they are put forward and back, and another."""
    begun = at(moment)

    assert NIGHT.is_open(begun + hours * 3600 - 1)
    assert not NIGHT.is_open(begun + hours * 3600)


def test_an_hour_that_is_skipped_opens_with_the_next_one() -> None:
    skipped = Window.parse("02:10-04:00 Europe/Berlin")

    opens = skipped.opens_at(at("2026-03-29T00:00:00+01:00"))

    assert opens == at("2026-03-29T03:10:00+02:00")
    assert skipped.is_open(opens)


def test_a_window_within_a_day_is_closed_at_night() -> None:
    day = Window.parse("08:30-17:00 America/New_York")

    assert not day.is_open(at("2026-11-30T08:29:59-05:00"))
    assert day.is_open(at("2026-11-30T16:59:59-05:00"))
    assert day.opens_at(at("2026-11-30T17:00:00-05:00")) == at("2026-12-01T08:30:00-05:00")


def test_not_before_and_a_window_hold_together() -> None:
    schedule = Schedule.of({"not_before": "2026-12-01T12:00:00+01:00", "window": "22:00-06:00 Europe/Berlin", "a": "b"})

    assert schedule.opens_at(at("2026-11-30T23:00:00+01:00")) == at("2026-12-01T22:00:00+01:00")
    assert schedule.opens_at(at("2026-12-02T02:00:00+01:00")) == at("2026-12-02T02:00:00+01:00")
    assert Schedule.of({"not_before": "1796000000"}).opens_at(0) == 1796000000
    assert Schedule.of({}).opens_at(5.5) == 5.5
    assert datetime.fromtimestamp(Schedule.of({"not_before": "2026-12-01T00:00:00Z"}).not_before, UTC).day == 1


@pytest.mark.parametrize(
    "told",
    [
        "22:00-22:00 Europe/Berlin",
        "24:00-06:00 Europe/Berlin",
        "22:00-06:60 Europe/Berlin",
        "22-06 Europe/Berlin",
        "22:00-06:00",
        "22:00-06:00 Nowhere/City",
        "22:00-06:00 Europe",
        "22:00-06:00 ../etc/passwd",
        "22:00-06:00 posix/../../etc/passwd",
        "",
    ],
)
def test_what_is_no_window_is_refused(told: str) -> None:
    with pytest.raises(ValueError, match=r"^metadata\.window: "):
        Schedule.of({"window": told})


@pytest.mark.parametrize("told", ["tomorrow", "2026-12-01T00:00:00", "2026-13-01T00:00:00Z", "-5", "1e9", "9" * 400])
def test_what_is_no_moment_is_refused(told: str) -> None:
    with pytest.raises(ValueError, match=r"^metadata\.not_before: "):
        Schedule.of({"not_before": told})
