"""Threads follow the container's quota, never more than the affinity mask and never fewer than one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.runtime.cpus import usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("100000 100000\n", 1),
        ("10000 100000\n", 1),
        ("400000 200000\n", 2),
        ("6400000 100000\n", 8),
        ("nonsense\n", 8),
        ("", 8),
    ],
)
def test_cgroup_v2_quota_rounds_up_and_is_capped(tmp_path: Path, content: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [
        ("-1", "100000", 8),
        ("250000", "100000", 3),
        ("50000", "100000", 1),
        ("3200000", "100000", 8),
        ("x", "100000", 8),
        ("200000", None, 8),
    ],
)
def test_cgroup_v1_quota_rounds_up_and_is_capped(tmp_path: Path, quota: str, period: str | None, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    if period is not None:
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    assert usable_cores(tmp_path) == cores


def test_without_cgroups_the_affinity_mask_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores(tmp_path / "absent") == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    assert usable_cores(tmp_path) == 1
