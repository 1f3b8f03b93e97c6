"""Run measurements in interpreters of their own, each with a limit of time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import MARK
from benchmarks.measures.effort import Figures

ROOT = Path(__file__).parents[1]
LIMIT = 120.0
"""Seconds for one measurement."""
CURVE_LIMIT = 400.0
"""Seconds for one curve."""
SCRIPT = "import sys; from benchmarks import child; child.main(sys.argv[1:])"


@dataclass(frozen=True)
class Interpreters:
    """How measurements are run.

    Attributes:
        workers: number of concurrent calls.
        quick: whether to look only at whether everything runs.
        place: the folder that has the `dragonfly_executor` to measure, and no `benchmarks` but this one.
    """

    workers: int
    quick: bool = False
    place: Path = ROOT

    def measure(self, subject: str, names: Sequence[str]) -> dict[str, Figures]:
        """Take some measurements of a subject in one new interpreter.

        Returns:
            For each measurement either its `figures`, or why it `failed` or is `left_out`.
        """
        effort = "quick" if self.quick else "full"
        # With -P the working directory is not searched, so PYTHONPATH decides which package is imported.
        command = [sys.executable, "-P", "-c", SCRIPT, subject, str(self.workers), effort, *names]
        limit = sum(CURVE_LIMIT if name.startswith("curve_") else LIMIT for name in names)
        output, reason = run(command, self.environment(), limit)
        lines = [json.loads(line.removeprefix(MARK)) for line in output.splitlines() if line.startswith(MARK)]
        answers: dict[str, Figures] = {line.pop("measurement"): line for line in lines}
        return {name: answers.get(name, {"failed": reason}) for name in names}

    def environment(self) -> dict[str, str]:
        """Return the environment of measurements."""
        # Modules compile once, as they are when they were installed, and not at each start.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        return environment | {
            "PYTHONPATH": os.pathsep.join([str(self.place), str(ROOT)]),
            "PYTHONWARNINGS": "ignore",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }


def run(command: Sequence[str], environment: dict[str, str], limit: float) -> tuple[str, str]:
    """Run a program, and kill all that it has started if it takes longer than the limit.

    Returns:
        Its output, and why it has failed if it has.
    """
    # Files, not pipes: a process that is left over holds a pipe open.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=errors, text=True, start_new_session=True
        )
        try:
            process.wait(limit)
            reason = f"it ended with status {process.returncode}"
        except subprocess.TimeoutExpired:
            reason = f"it took longer than {limit:g} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        errors.seek(0)
        last = errors.read().strip().splitlines()[-1:]
        return output.read(), ": ".join([reason, *last])
