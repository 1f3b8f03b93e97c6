"""Limits of cgroups, of both versions, and of their ancestors. Files that cannot be read limit nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dragonfly_executor.runner.cgroups import Cgroups
from dragonfly_executor.runner.granted_cpus import granted_cpus, slots_for


def cgroups(folder: Path, own: str, files: dict[str, str]) -> Cgroups:
    (folder / "own").write_text(own)
    for name, text in files.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Cgroups(str(folder), str(folder / "own"))


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/a\n", {"a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "max 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("4:cpu,cpuacct:/a\n0::/\n", {"cpu/a/cpu.cfs_quota_us": "25000\n", "cpu/a/cpu.cfs_period_us": "50000"}, 0.5),
        ("4:cpu:/a\n", {"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "50000"}, 0.5),
        ("4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "50000"}, None),
        ("4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "25000\n"}, None),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, None),
        ("0::/a\n", {"a/cpu.max": "nonsense"}, None),
        ("0::/a\n", {"a/cpu.max": "1 0"}, None),
        ("0::/a\n", {"a/cpu.max": "0 1"}, None),
        ("nonsense\n", {"cpu.max": "1 1"}, None),
        ("", {}, None),
    ],
)
def test_the_smallest_quota_counts(own: str, files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    assert cgroups(tmp_path, own, files).cpu_quota() == quota


def test_a_quota_grants_no_more_than_the_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 5})
    assert granted_cpus(cgroups(tmp_path, "0::/a\n", {"a/cpu.max": "800000 100000"})) == 3.0
    assert granted_cpus(cgroups(tmp_path, "0::/a\n", {"a/cpu.max": "150000 100000"})) == 1.5
    assert granted_cpus(Cgroups(str(tmp_path), str(tmp_path / "none"))) == 3.0


@pytest.mark.parametrize(("cpus", "slots"), [(0.1, 1), (1.0, 1), (1.5, 2), (64.0, 64)])
def test_a_part_of_a_cpu_is_a_slot(cpus: float, slots: int) -> None:
    assert slots_for(cpus) == slots
