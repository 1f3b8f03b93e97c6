"""The wall clock may do what it likes: nothing looks at it."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

import dragonfly_executor
from dragonfly_executor import CallTimeoutError
from tests.engine.conftest import MakeExecutor
from tests.support.helpers import PATIENCE, Mailbox, error_of
from tests.support.payloads import echo, hold_for_good

PACKAGE = Path(dragonfly_executor.__file__).parent
# A certificate bears dates; they are backdated, and no runner looks at them (tests/processes/dialback/test_pool.py).
# People read how old a machine is, and when an event was. A platform states when it started an instance, and until when
# a login is good.
DATED = {
    "backends/ec2/instances.py", "backends/fly/machines.py", "backends/kubernetes/credentials.py",
    "cli/replay/command.py", "cli/status/command.py", "transport/certificate.py",
}  # fmt: skip
# What is written on machines elsewhere, and on disk, is for processes that share no other clock. Fly and AWS send
# dates. A machine that was started again learns from its boot's date that the boot is over, and files have dates. A
# login of Kubernetes ends at a date. The printer looks whether the date of a call's log record is one. The system
# states when a process of Dask began, and Ray until when a node may run, by the time since 1970. An event and a report
# of a pool say when they were, and other programs read them. A file says when it was changed.
SHARED_CLOCK = {
    "backends/dask/worker.py", "backends/ray/driver_watch.py",
    "backends/docker/leftovers.py", "backends/ec2/backend.py", "backends/ec2/client.py", "backends/ec2/leftovers.py",
    "backends/fly/boot.py", "backends/fly/client.py", "backends/fly/found_machine.py", "backends/fly/http.py",
    "backends/fly/sweep.py", "backends/journal.py", "backends/kubernetes/credentials.py",
    "backends/kubernetes/leftovers.py", "backends/leftovers.py", "backends/slurm/leftovers.py",
    "cli/fleet/command.py", "cli/fleet/fleet.py", "engine/notifications.py", "engine/observing/call_events.py",
    "engine/observing/event_log.py", "engine/observing/pool_history.py", "engine/observing/runtime_directory.py",
    "engine/observing/status_report.py", "engine/output/printer.py", "runner/dialback.py", "runner/orphans.py",
}  # fmt: skip
WALL_CLOCKS = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.CLOCK_REALTIME"}


@pytest.mark.parametrize("jump", [86400.0, -86400.0])
def test_a_wall_clock_that_jumps_has_no_effect(
    make: MakeExecutor, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Checklist 53: a day forward, or back, while calls run and wait."""
    executor = make(1, heartbeat=0.05, lease=5.0, dead_after=2.0, idle_shutdown_after=30.0)
    assert executor.submit(echo, 1).result(PATIENCE) == 1
    held = executor.submit(hold_for_good, mailbox.path)
    mailbox.numbers(1)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    error = error_of(executor.options(timeout=0.3).submit(echo, 2))
    assert isinstance(error, CallTimeoutError)
    assert not held.done()
    assert held.cancel()
    assert executor.submit(echo, 3).result(PATIENCE) == 3
    assert executor.pool.stats().boots_attempted == 1


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_asks_the_wall_clock(path: Path) -> None:
    """Checklist 53: on a runner as in the parent. No call's time depends on it."""
    place = str(path.relative_to(PACKAGE))
    tree = ast.parse(path.read_text())
    asked = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & WALL_CLOCKS
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert bool(asked | imported & WALL_CLOCKS) == (place in SHARED_CLOCK)
    dated = [name for name in imported if name.startswith("datetime.date")]
    assert bool(dated) == (place in DATED)
