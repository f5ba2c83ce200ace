"""How long streams stood still when something broke."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.faults import Done, Fault
from tests.chaos.history import History

KILLS = ("engine killed", "worker killed")  # by these the promise of a short pause is measured
_SOON_S = 0.5  # until a signal has had its effect


@dataclass(frozen=True)
class Pause:
    """The longest one of a stream that this fault could hit."""

    fault: Fault
    seconds: float
    job_id: str


def pauses(done: Sequence[Done], histories: Sequence[History]) -> list[Pause]:
    """One of each fault that came alone. While Redis was down nothing can be said; that time is left out."""
    times = _times(histories)
    return [pause for one in done if one.fault.beside is None and (pause := _longest(one, times))]


def _longest(done: Done, times: Mapping[str, list[list[float]]]) -> Pause | None:
    is_redis = done.fault.kind.startswith("redis")
    streams = [(job, seen) for job in (times if is_redis else done.jobs) for seen in times.get(job, ())]
    gaps = [(gap, job) for job, seen in streams if (gap := _gap(seen, done.at)) is not None]
    if not gaps:
        return None
    seconds, job = max(gaps)
    return Pause(done.fault, max(0.0, seconds - done.over_s * is_redis), job)


def _times(histories: Sequence[History]) -> dict[str, list[list[float]]]:
    """Per job, when its frames came; a stream that was cut and followed is one, unless we cut it ourselves."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for history in (one for one in histories if one.question.is_plain):
        is_new = True
        for reading in history.readings:
            if is_new or not found[reading.job_id]:
                found[reading.job_id].append([])
            found[reading.job_id][-1].extend(reading.times)
            is_new = reading.end == "cut by us"
    return found


def _gap(seen: Sequence[float], at: float) -> float | None:
    """The longest silence that this moment may have begun; None for a stream that did not go through it."""
    if not seen or not seen[0] <= at < seen[-1]:
        return None
    return max(after - before for before, after in itertools.pairwise(seen) if before <= at + _SOON_S and after > at)


def summary(found: Sequence[Pause]) -> dict[str, dict[str, Any]]:
    """By kind of fault."""
    by_kind: dict[str, list[Pause]] = defaultdict(list)
    for pause in found:
        by_kind[pause.fault.kind].append(pause)
    return {kind: _figures(each) for kind, each in sorted(by_kind.items())}


def _figures(each: Sequence[Pause]) -> dict[str, Any]:
    longest = max(each, key=lambda pause: pause.seconds)
    p50 = statistics.median(pause.seconds for pause in each)
    where = f"fault {longest.fault.number}, {longest.job_id}"
    return {"count": len(each), "p50_s": round(p50, 2), "max_s": round(longest.seconds, 2), "longest": where}
