import os
from pathlib import Path

import pytest

from worker.models.cores import cores

_SEEN = len(os.sched_getaffinity(0))


def _machine(folder: Path, groups: str, **files: str) -> tuple[Path, Path]:
    (folder / "groups").write_text(groups)
    for name, text in files.items():
        file = folder / "mount" / name.replace("__", "/").replace("_max", ".max").replace("cfs", ".cfs")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder / "groups", folder / "mount"


@pytest.mark.parametrize(("bound", "count"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", _SEEN)])
def test_a_container_has_the_cores_it_is_granted(tmp_path: Path, bound: str, count: int) -> None:
    groups, mount = _machine(tmp_path, "0::/\n", cpu_max=bound)

    assert cores(groups, mount) == count


def test_a_group_above_may_grant_less(tmp_path: Path) -> None:
    groups, mount = _machine(tmp_path, "0::/a/b\n", a__b__cpu_max="max 100000", a__cpu_max="100000 100000")

    assert cores(groups, mount) == 1


def test_a_large_grant_makes_no_cores(tmp_path: Path) -> None:
    groups, mount = _machine(tmp_path, "0::/\n", cpu_max="99900000 100000")

    assert cores(groups, mount) == _SEEN


@pytest.mark.parametrize(("quota", "count"), [("100000", 1), ("-1", _SEEN)])
def test_groups_of_the_first_kind_count_too(tmp_path: Path, quota: str, count: int) -> None:
    groups, mount = _machine(
        tmp_path,
        "4:memory:/\n3:cpu,cpuacct:/box\n0::/\n",
        cpu__box__cpucfs_quota_us=quota,
        cpu__box__cpucfs_period_us="100000",
    )

    assert cores(groups, mount) == count


def test_without_groups_all_cores_count(tmp_path: Path) -> None:
    assert cores(tmp_path / "none", tmp_path) == _SEEN
