"""The benchmark itself: what it measures runs, and it judges figures as it says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import main_script
from benchmarks.adapters import ADAPTERS, BASELINE, OURS
from benchmarks.report import TARGETS, ratios_to_baseline, table, verdict

ROOT = Path(__file__).parents[2]


def test_a_round_that_lacks_a_figure_has_no_ratio() -> None:
    figures = {BASELINE: [2.0, 4.0, None], OURS: [1.0, None, 1.0]}
    assert ratios_to_baseline(OURS, figures) == [0.5]


@pytest.mark.parametrize(
    ("measure", "ours", "met"),
    [
        ("throughput", 3.0, True),
        ("throughput", 2.9, False),
        ("round_trip", 0.8, True),
        ("round_trip", 0.9, False),
        ("memory", None, False),
    ],
)
def test_the_median_ratio_is_held_against_the_target(measure: str, ours: float | None, met: bool) -> None:
    figures = {BASELINE: [1.0, 1.0, 2.0], OURS: [ours, ours, ours]}
    assert verdict(measure, figures)[0] is met
    assert OURS in table(measure, figures)


@pytest.mark.slow
@pytest.mark.parametrize("executor", [BASELINE, OURS])
def test_figures_are_taken_and_written(executor: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--rounds", "1", "--executors", executor]
    command += ["--measures", "cold_start", "import_time", "--json", str(tmp_path / "figures")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=50)
    assert TARGETS["cold_start"].title in done.stdout
    measured = json.loads((tmp_path / "figures").read_text())["measures"]
    assert all(figures["rounds"][executor][0] > 0 for figures in measured.values())
    assert set(ADAPTERS) >= set(measured["cold_start"]["rounds"])


def test_what_cannot_be_measured_is_said_and_fails_only_a_check(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--rounds", "0", "--json", str(tmp_path / "figures")]
    command += ["--executors", BASELINE, "--measures", "import_time"]
    assert "not measured" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert subprocess.run([*command, "--check"], cwd=ROOT, capture_output=True, check=False).returncode == 1


def test_the_core_is_measured_over_runners_and_queued_calls() -> None:
    """That all scenarios can be played; how long anything takes here says nothing."""
    command = [sys.executable, "-m", "benchmarks.core", "--rounds", "1", "--sizes", "1x100", "3x200", "--bursts", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=50)
    lines = done.stdout.splitlines()
    assert lines[0].split()[-3:] == ["1x100", "3x200", "ratio"]
    for kind in ("result, next call sent", "runner up, calls sent", "stats, ms", "all calls cancelled"):
        assert any(line.startswith(kind) for line in lines)
    assert lines[-1].startswith("burst of 20 boots: ")


@pytest.mark.slow
@pytest.mark.parametrize("way", main_script.WAYS)
def test_calls_of_a_script_are_measured_in_each_way(way: str) -> None:
    command = [sys.executable, main_script.__file__, way, str(time.monotonic())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    figures = json.loads(done.stdout)
    assert len(figures) == 7
    assert all(figure > 0 for figure in figures.values())


@pytest.mark.slow
def test_a_burst_is_measured_on_two_backends_and_on_each_alone() -> None:
    command = [sys.executable, "-m", "benchmarks.tiers", "--calls", "40", "--boot", "0.5", "--seconds", "0.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=50)
    _, _, *rows = done.stdout.splitlines()
    assert [row[:18].strip() for row in rows] == ["local, then slow", "local alone", "slow alone"]
    assert rows[1].endswith("local 40")
    assert rows[2].endswith("slow 40")
