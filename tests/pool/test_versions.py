"""Runners that are of another version than the parent: real interpreters, and runners that only claim to be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dragonfly_executor import LocalBackend, VersionMismatchError
from dragonfly_executor.testing import FakeBackend, FakeRunner
from tests.payloads import echo, hold
from tests.pool.conftest import MakeExecutor, MakePool
from tests.support import PATIENCE, Events, Gate, Mailbox, error_of

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def interpreter(version: str) -> str:
    """An interpreter of this version, on PATH or among pyenv's; skips where there is none."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which(f"python{version}")
    found = [on_path] if on_path else []
    found += map(str, sorted(root.glob(f"versions/{version}.*/bin/python")))
    for candidate in found:
        # pyenv's shims are on PATH, and may lead nowhere.
        answer = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
        )
        if answer.stdout.strip() == version:
            return candidate
    pytest.skip(f"no Python {version} is installed here")


@pytest.mark.parametrize("version", [version for version in ("3.11", "3.12", "3.13") if version != OWN])
def test_a_runner_of_another_minor_version_gets_no_call(make: MakeExecutor, version: str) -> None:
    """Checklist 16: the error names both sides, and the runner is not booted again and again."""
    executor = make(1, backend=LocalBackend(python=interpreter(version)))
    futures = [executor.submit(echo, number) for number in range(3)]
    for future in futures:
        error = error_of(future)
        assert isinstance(error, VersionMismatchError)
        assert f"python is {OWN} in the parent and {version} on the runner" in str(error)
        assert error.phase == "handshake"
    stats = executor.pool.stats()
    assert (stats.boots_attempted, stats.boots_failed, stats.runners_up) == (1, 1, 0)


def test_calls_on_a_runner_that_fits_go_on_when_another_does_not(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 16: what waits fails only where nothing else can run it."""
    events = Events()
    backend = FakeBackend(FakeRunner(), FakeRunner(python="3.9"), slots=1)
    pool = make_pool(max=2, max_concurrency=1, backend=backend, on_event=events, boot_wait=lambda state: 3600.0)
    first = pool.submit(hold, mailbox.path, gate.path, "first")
    mailbox.numbers(1)
    second = pool.submit(echo, "second")
    assert "3.9" in events.wait("boot failed")["text"]
    gate.open()
    assert [first.result(PATIENCE), second.result(PATIENCE)] == ["first", "second"]


def test_the_next_submit_after_a_mismatch_tries_once_more(make: MakeExecutor) -> None:
    """Checklist 16: the machine may have been put right."""
    executor = make(1, backend=FakeBackend(FakeRunner(python="3.9")))
    assert isinstance(error_of(executor.submit(echo, 1)), VersionMismatchError)
    assert executor.submit(echo, 2).result(PATIENCE) == 2
