"""When a batch may run: not before a moment, and only in a daily window of somebody's local time."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Self, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d) ([A-Za-z][\w+/-]{0,63})", re.ASCII)
_SECONDS = re.compile("[0-9]{1,12}")
_DAYS = 3  # in so many of them a window opens at least once, whatever clocks are put to
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Window:
    """From one time of day up to another, by the clocks of a zone; over midnight where the second is the earlier."""

    begin: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, told: str) -> Self:
        """``22:00-06:00 Europe/Berlin``. Raises ValueError."""
        found = _WINDOW.fullmatch(told)
        if found is None:
            raise ValueError("it should be two times of day and a zone, as 22:00-06:00 Europe/Berlin")
        begin, end, zone = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4])), found[5]
        if begin == end:
            raise ValueError("it should begin and end at different times")
        try:
            return cls(begin, end, ZoneInfo(zone))
        except (ZoneInfoNotFoundError, OSError):
            raise ValueError(f"{zone} is no time zone") from None

    def is_open(self, at: float) -> bool:
        """Whether the clocks of that zone are within it at this Unix time."""
        clock = datetime.fromtimestamp(at, self.zone).time()
        if self.begin < self.end:
            return self.begin <= clock < self.end
        return clock >= self.begin or clock < self.end

    def opens_at(self, at: float) -> float:
        """The first moment from this one on at which it is open."""
        if self.is_open(at):
            return at
        today = datetime.fromtimestamp(at, self.zone).date()
        days = (today + timedelta(days=ahead) for ahead in range(_DAYS))
        begins = (datetime.combine(day, self.begin, self.zone).timestamp() for day in days)
        return next(begin for begin in begins if begin > at)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What ``metadata`` says of it."""

    not_before: float = 0.0  # Unix seconds
    window: Window | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Self:
        """Raises ValueError, which begins with the field."""
        return cls(
            _read(metadata, "not_before", _moment) or 0.0,
            _read(metadata, "window", Window.parse),
        )

    def opens_at(self, at: float) -> float:
        """The first moment from this one on at which rows may begin."""
        first = max(at, self.not_before)
        return first if self.window is None else self.window.opens_at(first)


def _moment(told: str) -> float:
    """Unix seconds, or ISO 8601 with its offset."""
    if _SECONDS.fullmatch(told):
        return float(told)
    moment = datetime.fromisoformat(told)
    if moment.tzinfo is None:
        raise ValueError("it should name its offset, as 2030-01-31T22:00:00+01:00, or be Unix seconds")
    return moment.astimezone(UTC).timestamp()


def _read(metadata: Mapping[str, str], name: str, read: Callable[[str], T]) -> T | None:
    """Raises ValueError."""
    try:
        return read(metadata[name]) if name in metadata else None
    except (ValueError, OverflowError) as error:
        raise ValueError(f"metadata.{name}: {error}") from None
