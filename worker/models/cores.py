"""How many cores this process may keep busy."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cores(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Those it may run on, or fewer where its control group (a container's, say) grants less time than that."""
    granted = [int(share) for share in _shares(groups, mount)]
    return max(1, min(len(os.sched_getaffinity(0)), *granted)) if granted else len(os.sched_getaffinity(0))


def _shares(groups: Path, mount: Path) -> Iterator[float]:
    """Of each group that this process is in, up to the root: cores' worth of time."""
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / "cpu" if controllers else mount
        inside = PurePosixPath(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            quota, period = _quota(root / folder)
            if quota > 0:
                yield quota / period


def _quota(group: Path) -> tuple[int, int]:
    """Microseconds of each so many; without a bound, none."""
    new, old = group / "cpu.max", group / "cpu.cfs_quota_us"
    if new.is_file():
        quota, period = new.read_text().split()
        return (0, 1) if quota == "max" else (int(quota), int(period))
    return (int(old.read_text()), int((group / "cpu.cfs_period_us").read_text())) if old.is_file() else (0, 1)
