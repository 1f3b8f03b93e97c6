"""`dragonfly replay`: the timeline of a pool, from the events that it has logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.cli.main import main
from dragonfly_executor.cli.replay.command import lane_text
from dragonfly_executor.cli.replay.timeline import CallRun, RunnerLane, read_timelines
from dragonfly_executor.testing import FakeBackend
from tests.support.helpers import error_of, values
from tests.support.payloads import echo, fail


@pytest.fixture
def logged(tmp_path: Path) -> str:
    """What a pool with ten calls has logged, one of which failed."""
    path = tmp_path / "events.jsonl"
    with DragonflyExecutor(backend=FakeBackend(), log_events=path) as ex:
        values(ex.submit(echo, number) for number in range(9))
        error_of(ex.submit(fail, KeyError()))
    return str(path)


def test_it_shows_functions_and_runners(logged: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", logged]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  calls  10 submitted, 9 done, 1 failed (1 raised)"
    assert ["9", "0", "echo"] in [[line.split()[0], line.split()[1], line.split()[-1]] for line in lines[3:] if line]
    assert lines[-1].startswith("  runner 1 |")
    assert lines[-1].endswith("| 10 calls")


def test_it_prints_json_of_the_same(logged: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", logged, "--json"]) == 0
    (timeline,) = json.loads(capsys.readouterr().out)
    assert timeline["submitted"] == 10
    assert timeline["functions"]["fail"]["failures"] == {"raised": 1}
    (runner,) = timeline["runners"]
    assert runner["boot_at"] <= runner["up_at"] <= runner["down_at"]
    assert len(runner["calls"]) == 10
    assert all(timeline["first"] <= call["begin"] <= call["end"] <= timeline["last"] for call in runner["calls"])


def test_torn_lines_and_garbage_are_left_out(logged: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Path(logged).open("a") as file:
        file.write('{"event": "call done", "na\n[1]\nnull\n{"event": "up", "name": "x", "time": "soon"}\n\n')
    assert main(["replay", logged]) == 0
    captured = capsys.readouterr()
    assert f"4 lines of {logged} are no events, and were left out" in captured.err
    assert "10 submitted" in captured.out
    assert main(["replay", logged + ".missing"]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_a_runners_line_says_when_it_booted_idled_and_was_busy() -> None:
    lane = RunnerLane(1, boot_at=0.0, up_at=2.0, down_at=8.0)
    lane.calls = [CallRun(1, "f", 3.0, 5.0, "done"), CallRun(2, "f", 4.0, 5.0, "done")]
    assert lane_text(lane, 0.0, 10.0, 10) == ".._▅█___  "


def test_calls_that_were_lost_ran_from_their_start_to_their_loss() -> None:
    common: dict[str, Any] = {"name": "p", "pid": 1, "call_id": 7, "function": "f", "attempt": 1}
    events = [
        {**common, "event": "call submitted", "time": 1.0},
        {**common, "event": "call started", "time": 2.0, "runner_id": 3, "slot": 1},
        {**common, "event": "call failed", "time": 4.0, "runner_id": None, "kind": "lost", "error": "RunnerLostError"},
        {"name": "p", "pid": 1, "event": "events dropped", "time": 5.0, "count": 2},
    ]
    (timeline,), bad = read_timelines(map(json.dumps, events))
    assert (bad, timeline.dropped) == (0, 2)
    assert timeline.runners[3].calls == [CallRun(7, "f", 2.0, 4.0, "failed", 1)]
