"""How much of the machine a program may use, with files like those of both versions of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from jobqueue.insight.capacity import cores, memory_mb

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
ALL_MB = psutil.virtual_memory().total / 2**20


def write(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root / "fs", root / "own"


def test_without_limits_all_cores_and_memory_count(tmp_path: Path) -> None:
    assert (cores(tmp_path / "no", tmp_path / "no"), memory_mb(tmp_path / "no", tmp_path / "no")) == (HERE, ALL_MB)
    place = write(tmp_path, {"own": "0::/a", "fs/cgroup.controllers": "cpu memory", "fs/a/cpu.max": "max 100000",
                             "fs/a/memory.max": "max"})  # fmt: skip
    assert (cores(*place), memory_mb(*place)) == (HERE, ALL_MB)
    assert 1 <= cores() <= HERE
    assert 0 < memory_mb() <= ALL_MB


@pytest.mark.parametrize(("quota", "expected"), [("50000 100000", 1), ("100000 100000", 1), ("150000 100000", 2)])
def test_a_cgroup_v2_quota_counts_at_each_level(tmp_path: Path, quota: str, expected: int) -> None:
    """The smallest quota counts, whoever set it; in a container the group is at the top."""
    files = {"fs/cgroup.controllers": "cpu memory", "fs/cpu.max": "max 100000", "fs/a/cpu.max": quota,
             "fs/a/b/cpu.max": "800000 100000", "fs/a/memory.max": str(512 * 2**20),
             "fs/a/b/memory.max": "max"}  # fmt: skip
    place = write(tmp_path, {"own": "0::/a/b", **files})
    assert cores(*place) == min(expected, HERE)
    assert memory_mb(*place) == 512
    container = write(tmp_path / "c", {"own": "0::/", "fs/cgroup.controllers": "", "fs/cpu.max": quota,
                                       "fs/memory.max": str(256 * 2**20)})  # fmt: skip
    assert cores(*container) == min(expected, HERE)
    assert memory_mb(*container) == 256


def test_the_limits_of_cgroup_v1(tmp_path: Path) -> None:
    """The path is the host's; inside a container only the top is visible."""
    files = {"fs/cpu,cpuacct/cpu.cfs_quota_us": "50000", "fs/cpu,cpuacct/cpu.cfs_period_us": "100000",
             "fs/memory/memory.limit_in_bytes": str(128 * 2**20)}  # fmt: skip
    place = write(
        tmp_path, {"own": "4:memory:/docker/1234\n3:cpu,cpuacct:/docker/1234\n1:name=systemd:/\n0::/", **files}
    )
    assert (cores(*place), memory_mb(*place)) == (1, 128)
    files = {"fs/cpu,cpuacct/cpu.cfs_quota_us": "-1", "fs/cpu,cpuacct/cpu.cfs_period_us": "100000",
             "fs/memory/memory.limit_in_bytes": "9223372036854771712"}  # fmt: skip
    place = write(tmp_path, files)
    assert (cores(*place), memory_mb(*place)) == (HERE, ALL_MB)


def test_files_that_cannot_be_read_set_no_limit(tmp_path: Path) -> None:
    place = write(tmp_path, {"own": "0::/../../..", "fs/cgroup.controllers": "", "fs/cpu.max": "0 0",
                             "fs/memory.max": "much"})  # fmt: skip
    assert (cores(*place), memory_mb(*place)) == (HERE, ALL_MB)
