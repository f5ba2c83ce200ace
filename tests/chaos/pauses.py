"""How long streams stood still when something broke."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tests.chaos.faults import Done
from tests.chaos.history import History

KILLS = ("engine killed", "worker killed")  # by these the promise of a short pause is measured
_SOON_S = 0.5  # until a signal has had its effect


def pauses(done: Sequence[Done], histories: Sequence[History]) -> dict[str, list[float]]:
    """By kind of fault: each one's longest pause of a stream that it could hit; only of those that came alone.

    While Redis was down nothing can be said; that time is left out.
    """
    times: Mapping[str, list[list[float]]] = _times(histories)
    found: dict[str, list[float]] = defaultdict(list)
    for one in done:
        if one.fault.beside is None and (is_redis := one.fault.kind.startswith("redis")) | bool(one.jobs):
            jobs = times if is_redis else one.jobs
            gaps = [gap for job in jobs for seen in times.get(job, ()) if (gap := _gap(seen, one.at)) is not None]
            if gaps:
                found[one.fault.kind].append(max(0.0, max(gaps) - one.fault.seconds * is_redis))
    return found


def _times(histories: Sequence[History]) -> dict[str, list[list[float]]]:
    """Per job, when its frames came; a stream that was cut and followed is one, unless we cut it ourselves."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for history in histories:
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


def summary(found: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """As the report has them."""
    return {
        kind: {"count": len(each), "p50_s": round(statistics.median(each), 2), "max_s": round(max(each), 2)}
        for kind, each in sorted(found.items())
    }
