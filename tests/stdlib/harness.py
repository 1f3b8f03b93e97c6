"""Run upstream tests from outside, each in its own interpreter, with a time limit and a census of what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.stdlib.upstream import SOURCE

ROOT = Path(__file__).parents[2]
LIMIT = 40.0  # seconds for one test, interpreter start and exit included
GRACE = 5.0  # seconds after its end until everything that it started is to be gone
MARK = "UPSTREAM_TEST_MARK"
# Written by the interpreter where an error has no caller to go to.
LOST_ERRORS = ("Exception in thread", "Exception ignored in", "Error in atexit")


@dataclass(frozen=True)
class Harness:
    """Which executor ("module:Class") stands in for `ProcessPoolExecutor`, and how its tests are run."""

    executor: str
    start_method: str = "spawn"
    source: str = SOURCE
    limit: float = LIMIT
    grace: float = GRACE

    def ids(self) -> list[str]:
        """All tests that there are to run."""
        ids, troubles, output = self._spawn()
        assert not troubles, f"{troubles}\n{output}"
        return list(ids)

    def check(self, test_id: str, excluded: Mapping[str, str]) -> None:
        """Let pytest's test pass, fail or be skipped as this test does. `excluded` has a reason for each left out."""
        if test_id in excluded:
            pytest.skip(excluded[test_id])
        outcome, detail = self.run(test_id)
        if outcome == "skipped":
            pytest.skip(f"upstream: {detail}")
        assert outcome == "passed", detail

    def run(self, test_id: str) -> tuple[str, str]:
        """Run one test: ("passed" | "failed" | "skipped", detail)."""
        report, troubles, output = self._spawn(test_id)
        outcome, detail = report or ("failed", "")
        if troubles or outcome == "failed":
            return "failed", f"{detail}\n{troubles}\n--- output:\n{output}"
        return outcome, detail

    def _spawn(self, *test_id: str) -> tuple[Any, str, str]:
        """What the child reported (None if nothing), what went wrong around it ("" if nothing), and its output."""
        mark = uuid.uuid4().hex
        with tempfile.TemporaryDirectory() as folder:
            report, log = Path(folder, "report"), Path(folder, "log")
            options = {"executor": self.executor, "start-method": self.start_method, "source": self.source}
            # Under its folder, temporary files of a test that had to be killed go with it.
            environment = {**os.environ, MARK: mark, "TMPDIR": folder}
            command = [sys.executable, "-m", "tests.stdlib.one", "--report", str(report), f"--limit={self.limit}"]
            command += [f"--{name}={value}" for name, value in options.items()]
            # A file, not a pipe: what a test leaves behind must not keep the harness waiting for the pipe's end.
            with log.open("wb") as output:
                child = subprocess.Popen(
                    [*command, *test_id],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
                troubles = [_wait(child, self.limit + self.grace), _census(mark, self.grace)]
            text = log.read_text(encoding="utf-8", errors="replace")
            troubles += [f"on stderr: {sign}" for sign in LOST_ERRORS if sign in text and test_id]
            outcome = json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
            if outcome is None:
                troubles.append("no report")
            return outcome, "\n".join(filter(None, troubles)), text


def _wait(child: subprocess.Popen[bytes], limit: float) -> str:
    try:
        status = child.wait(limit)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return f"no end after {limit} s"
    return f"exit status {status}" if status else ""


def _census(mark: str, grace: float) -> str:
    """Name, and kill, the processes of a test that are still there after `grace` seconds."""
    marked = [process for process in psutil.process_iter() if _environment(process).get(MARK) == mark]
    _, alive = psutil.wait_procs(marked, timeout=grace)
    left = [f"left behind: {process}" for process in alive]
    for process in alive:
        process.kill()
    psutil.wait_procs(alive)
    return "\n".join(left)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return dict(process.environ())
    except psutil.Error:  # gone, or not ours
        return {}
