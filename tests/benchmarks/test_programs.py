"""The programs that measure run; how long anything takes here says nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import by_value, main_script
from benchmarks.results import Results
from benchmarks.rows import ROWS, WIRE
from benchmarks.subjects import BASELINE, EMPTY_PROGRAM, FUTURE, MEMCPY, OTHER, OURS, SOCKETS

ROOT = Path(__file__).parents[2]
KINDS = {
    "calls": ["submits", "map_1", "map_100", "round_trip_p50", "round_trip_p99", "echo_1k"],
    "large": ["echo_1m"],
    "memory": ["memory"],
    "starts": ["cold", "imported"],
    "slots": ["slots_cold", "slots_warm"],
    "processor": ["processor_time", "context_switches"],
}


def run(folder: Path, *arguments: str) -> tuple[Results, str]:
    """Run the benchmark with few calls. Return its figures and what it printed."""
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(folder / "figures"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=55)
    return Results.read(folder / "figures"), done.stdout


def test_every_row_has_a_kind_that_is_tried_or_is_slow() -> None:
    tried = {row for rows in KINDS.values() for row in rows}
    slow = {"echo_64m_bytes", "echo_64m_numpy", "map_unsized", "system_calls", *WIRE}
    assert tried | slow == set(ROWS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("rows", KINDS.values(), ids=KINDS)
def test_each_kind_of_row_is_measured_and_written(rows: list[str], tmp_path: Path) -> None:
    results, text = run(tmp_path, "--rounds", "1", "--no-limits", "--executors", BASELINE, OURS, "--rows", *rows)
    assert results.failures == []
    for row in rows:
        assert set(results.rows[row]) == {BASELINE, OURS}
        assert ROWS[row].title in text
        if row not in ("memory", "context_switches"):  # a few calls need no new page
            assert all((results.median(row, subject) or 0) > 0 for subject in results.rows[row])


@pytest.mark.exhaustive
def test_limits_are_measured_in_the_same_run(tmp_path: Path) -> None:
    rows = ["submits", "map_1", "map_100", "round_trip_p50", "echo_1k", "echo_1m", "cold", "memory", "slots_cold"]
    results, _ = run(tmp_path, "--rounds", "1", "--executors", "ThreadPoolExecutor", "--rows", *rows)
    assert results.failures == []
    limits = {row: set(figures) - {"ThreadPoolExecutor"} for row, figures in results.rows.items()}
    assert limits.pop("cold") == {EMPTY_PROGRAM}
    assert limits.pop("memory") == {FUTURE}
    assert limits.pop("echo_1m") == {SOCKETS, MEMCPY}
    assert all(names == {SOCKETS} for names in limits.values())
    assert all(results.median(row, SOCKETS) for row in limits)


@pytest.mark.exhaustive
def test_curves_are_measured_and_drawn(tmp_path: Path) -> None:
    arguments = ["--rounds", "0", "--curves", "--executors", OURS, "--rows", "--svg", str(tmp_path / "plots")]
    results, _ = run(tmp_path, *arguments)
    assert results.failures == []
    assert [x for x, _ in results.curve("curve_calls", OURS)] == [100, 1_000]
    assert [x for x, _ in results.curve("curve_slots", SOCKETS)] == [1, 2]
    assert [x for x, _ in results.curve("curve_sizes", MEMCPY)] == [1, 8, 64, 512, 4096]
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {"curve_calls.svg", "curve_sizes.svg", "curve_slots.svg"}


@pytest.mark.exhaustive
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_system_calls_are_counted(tmp_path: Path) -> None:
    results, _ = run(tmp_path, "--rounds", "1", "--no-limits", "--executors", BASELINE, "--rows", "system_calls")
    assert (results.median("system_calls", BASELINE) or 0) > 1


@pytest.mark.exhaustive
def test_another_checkout_is_measured_beside(tmp_path: Path) -> None:
    """A checkout that cannot be imported fails alone, so the figures come from the right one."""
    other = tmp_path / "other"
    (other / "dragonfly_executor").mkdir(parents=True)
    (other / "benchmarks").mkdir()
    (other / "benchmarks" / "__init__.py").write_text("raise RuntimeError('not these benchmarks')\n")
    (other / "dragonfly_executor" / "__init__.py").write_text("raise RuntimeError('the other checkout')\n")
    arguments = ["--beside", str(other), "--no-limits", "--executors", OURS, "--rows", "submits", "--rounds", "1"]
    results, _ = run(tmp_path, *arguments)
    assert (results.median("submits", OURS) or 0) > 0
    assert results.median("submits", OTHER) is None
    assert ["the other checkout" in line for line in results.failures] == [True]


@pytest.mark.exhaustive
def test_a_run_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    """The census around this test looks for processes."""
    command = [sys.executable, "-m", "benchmarks", "--json", str(tmp_path / "figures"), "--executors", BASELINE]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        assert BASELINE in started.stderr.readline()
        started.terminate()
        assert started.wait(30) == 1


def test_what_cannot_be_measured_is_said_and_fails_only_a_check(tmp_path: Path) -> None:
    arguments = ["--rounds", "0", "--executors", BASELINE, "--no-limits", "--rows", "imported"]
    assert "not measured" in run(tmp_path, *arguments)[1]
    with pytest.raises(subprocess.CalledProcessError):
        run(tmp_path, *arguments, "--check")


def test_the_core_is_measured_over_runners_and_queued_calls() -> None:
    """That all scenarios can be played."""
    command = [sys.executable, "-m", "benchmarks.core", "--rounds", "1", "--sizes", "1x100", "3x200", "--bursts", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=50)
    lines = done.stdout.splitlines()
    assert lines[0].split()[-3:] == ["1x100", "3x200", "ratio"]
    for kind in ("result, next call sent", "runner up, calls sent", "stats, ms", "all calls cancelled"):
        assert any(line.startswith(kind) for line in lines)
    assert lines[-1].startswith("burst of 20 boots: ")


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", main_script.WAYS)
def test_calls_of_a_script_are_measured_in_each_way(way: str) -> None:
    command = [sys.executable, main_script.__file__, way, str(time.monotonic())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    figures = json.loads(done.stdout)
    assert len(figures) == 7
    assert all(figure > 0 for figure in figures.values())


@pytest.mark.exhaustive
def test_a_burst_is_measured_on_two_backends_and_on_each_alone() -> None:
    command = [sys.executable, "-m", "benchmarks.tiers", "--calls", "40", "--boot", "0.5", "--seconds", "0.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=50)
    _, _, *rows = done.stdout.splitlines()
    assert [row[:18].strip() for row in rows] == ["local, then slow", "local alone", "slow alone"]
    assert rows[1].endswith("local 40")
    assert rows[2].endswith("slow 40")


@pytest.mark.exhaustive
def test_calls_by_value_are_measured_in_a_program_without_a_file() -> None:
    names = [name for name in by_value.CASES if not name.startswith("64")]
    text = Path(by_value.__file__).read_text(encoding="utf-8")
    command = [sys.executable, "-c", text, "measure", "100", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=True)
    figures = json.loads(done.stdout)
    assert list(figures) == names
    for case in figures.values():
        assert len(case["dragonfly"]) == by_value.ROUNDS
        assert min(case["dragonfly"]) > 0
