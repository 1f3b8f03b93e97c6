"""Figures are judged as the report says: medians of ratios, targets, peers, limits."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchmarks.adapters import Adapter, NotMeasured
from benchmarks.child import MARK, Measured, measured
from benchmarks.interpreters import Interpreters, run
from benchmarks.measures.alone import total_calls
from benchmarks.measures.effort import QUICK
from benchmarks.measures.processor import thread_name
from benchmarks.report import absolute_markdown, block, change, markdown, threads_markdown, verdict
from benchmarks.results import Results
from benchmarks.rounds import wire_seconds
from benchmarks.rows import ROWS
from benchmarks.subjects import ADAPTERS, BASELINE, MPIRE, OTHER, OURS, POOL, RAY, SOCKETS, SPAWN, THREADS


def results(row: str, **figures: list[float | None]) -> Results:
    names = {"ours": OURS, "base": ROWS[row].baseline, "pool": POOL, "ray": RAY, "limit": ROWS[row].limit}
    return Results(rows={row: {names[name]: values for name, values in figures.items()}})


def test_a_round_that_lacks_a_figure_has_no_ratio() -> None:
    assert results("submits", base=[2.0, 4.0, None], ours=[1.0, None, 1.0]).ratio("submits", OURS) == 0.5


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    """Not the ratio of the medians, which would be 10 / 10."""
    assert results("submits", base=[1.0, 10.0, 100.0], ours=[10.0, 1.0, 300.0]).ratio("submits", OURS) == 3.0


@pytest.mark.parametrize(
    ("row", "ours", "met"),
    [
        ("submits", 6.0, True),
        ("submits", 5.9, False),
        ("round_trip_p50", 0.45, True),
        ("round_trip_p50", 0.46, False),
        ("memory", None, None),
        ("processor_time", 9.0, None),
    ],
)
def test_the_median_ratio_is_held_against_the_target(row: str, ours: float | None, met: bool | None) -> None:
    run_of_three = results(row, base=[1.0, 1.0, 2.0], ours=[ours, ours, ours and 2 * ours])
    assert run_of_three.is_met(row) is met
    word = {True: "met", False: "MISSED", None: "not measured" if ROWS[row].bound else ""}[met]
    assert verdict(run_of_three, row).endswith(word)
    assert OURS in block(run_of_three, row)


@pytest.mark.parametrize(
    ("row", "ours", "word"),
    [
        ("submits", 12.0, "better"),
        ("submits", 8.0, "WORSE"),
        ("round_trip_p50", 12.0, "WORSE"),
        ("memory", 10.5, "as before"),
    ],
)
def test_a_row_is_compared_with_the_other_checkout(row: str, ours: float, word: str) -> None:
    assert change(Results(rows={row: {OURS: [ours], OTHER: [10.0]}}), row).endswith(word)


def test_a_target_may_be_another_executor() -> None:
    row = "echo_64m_numpy"
    assert results(row, base=[1.0], ours=[20.0], ray=[25.0]).is_met(row) is False
    assert results(row, base=[1.0], ours=[26.0], ray=[25.0]).is_met(row) is True
    assert results(row, base=[1.0], ours=[26.0]).is_met(row) is None


def test_a_row_has_a_baseline_of_its_own() -> None:
    figures = Results(rows={"cold": {BASELINE: [1.0], SPAWN: [10.0], OURS: [5.0]}})
    assert figures.ratio("cold", OURS) == 0.5


@pytest.mark.parametrize(("row", "best"), [("submits", MPIRE), ("round_trip_p50", POOL)])
def test_the_best_peer_is_neither_ours_nor_the_baseline_nor_a_limit_nor_threads(row: str, best: str) -> None:
    figures: dict[str, list[float | None]] = {
        BASELINE: [1.0], OURS: [9.0], POOL: [2.0], MPIRE: [3.0], SOCKETS: [8.0], RAY: [None], THREADS: [20.0],
        "ours, client=openssh": [30.0],
    }  # fmt: skip
    assert (Results(rows={row: figures}).best_peer(row) or ("",))[0] == best


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    figures = results("submits", base=[1.0, 2.0], ours=[None, 3.0])
    figures.machine, figures.failures = {"cpus": 2}, ["loky is not installed"]
    figures.add("submits", POOL, 1, 5.0)
    figures.curves = {"curve_calls": {OURS: [[[100, 1.0]], [[100, 3.0], [1000, 4.0]]]}}
    figures.threads = {OURS: [{"agent": 1.0}, {"agent": 3.0, "slot": 1.0}]}
    figures.write(tmp_path / "new" / "figures.json")
    again = Results.read(tmp_path / "new" / "figures.json")
    assert again == figures
    assert again.rows["submits"][POOL] == [None, 5.0]
    assert again.curve("curve_calls", OURS) == [(100, 2.0), (1000, 4.0)]
    assert again.by_thread(OURS) == {"agent": 2.0, "slot": 0.5}


def test_tables_show_ratios_peers_limits_and_what_is_missing() -> None:
    figures = results("submits", base=[10.0], ours=[70.0], pool=[30.0], limit=[120.0])
    figures.rows["cold"] = {OURS: [None], SPAWN: [0.1]}
    figures.threads = {OURS: [{"parent, MainThread": 25e-6, "parent, rest": 1e-9}]}
    lines = markdown(figures).splitlines()
    assert lines[2] == f"| no-op submits | 70.0 calls/s | **7.00** | {POOL} 3.00 | {SOCKETS} 12.0 | ≥ 6 | met |"
    assert lines[3] == f"| first result from cold, to {SPAWN} | - | - |  |  | ≤ 0.6 | not measured |"
    assert threads_markdown(figures).splitlines()[2] == f"| {OURS} | 25.0 | parent, MainThread 25.0 |"
    assert absolute_markdown(figures).startswith("| figure |")


class Refusing(Adapter):
    make = "None"

    def close(self) -> None:
        pass

    def submit(self, fn, *args):  # type: ignore[no-untyped-def]
        if fn is not time.sleep and args:
            raise OSError("no memory")
        return lambda: None

    def map(self, fn, values, chunksize):  # type: ignore[no-untyped-def]
        raise NotMeasured("it has no chunks")


def test_a_failure_of_an_executor_is_reported_and_the_next_figure_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ADAPTERS, "refusing", Refusing)
    monkeypatch.setattr("benchmarks.child.warm_up", lambda *_: None)
    lines = list(measured(Measured("refusing", 1, QUICK), ["echo_1k", "map_1", "submits"]))
    assert lines[0] == {"measurement": "echo_1k", "failed": "OSError: no memory"}
    assert lines[1] == {"measurement": "map_1", "left_out": "it has no chunks"}
    assert lines[2]["figures"]["submits"] > 0


def test_a_program_that_takes_too_long_is_killed_with_its_children() -> None:
    text = (
        f"import subprocess, sys, time; print({MARK!r} + '1', flush=True); "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    )
    began = time.monotonic()
    output, reason = run([sys.executable, "-c", text], {}, 1.0)
    assert time.monotonic() - began < 30
    assert (output, reason) == (f"{MARK}1\n", "it took longer than 1 s")


def test_an_interpreter_that_ends_early_says_why() -> None:
    answer = Interpreters(1, quick=True).measure("no such executor", ["submits"])
    assert "no such executor" in answer["submits"]["failed"]


def test_other_formats_are_read() -> None:
    table = " 99.0 0.1 2 50 3 read\n------ ---\n100.00    0.109136          13      8325      1223 total\n"
    assert total_calls(table) == 8325
    figures = {"ways": {"ssh": {"ssh host cat": {"seconds": [0.5]}, "ours": {"seconds": [0.6]}}}}
    assert dict(wire_seconds(figures, "ssh")) == {"ssh host cat": 0.5, "ours": 0.6}
    assert thread_name("ThreadPoolExecutor-0_1") == "ThreadPoolExecutor-0"
    assert thread_name("Thread-4 (_handle_workers)") == "Thread"
