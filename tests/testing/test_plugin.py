"""The fixtures of the pytest plugin, and what pytest loads for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIXTURES = "dragonfly_executor.pytest_plugin"

TESTS = """
import sys

LIGHT = {
    "dragonfly_executor", "dragonfly_executor.pytest_plugin", "dragonfly_executor.util",
    "dragonfly_executor.util.lazy_typing",
}

def is_loaded():
    return any(name.partition(".")[0] == "dragonfly_executor" for name in {*sys.modules} - LIGHT)

def test_first():
    assert not is_loaded()

def test_uses_the_pool(dragonfly_pool):
    assert dragonfly_pool.call(pow, 2, 3) == 8
    assert is_loaded()
"""

ENDS = """
import time
import pytest
from dragonfly_executor import CallTimeoutError, DragonflyExecutor, LocalBackend, call
from dragonfly_executor.testing import FakeBackend

kept = []

def backend_of(pool):
    return pool._engine.tiers[0].backend

def test_leaves_calls(dragonfly_pool, dragonfly_backend):
    kept.extend([dragonfly_pool, dragonfly_pool.submit(time.sleep, 3600)])
    assert backend_of(dragonfly_pool) is backend_of(DragonflyExecutor().pool) is dragonfly_backend

def test_it_was_ended():
    pool, future = kept
    assert pool.is_shut_down and future.done()
    assert isinstance(backend_of(DragonflyExecutor().pool), LocalBackend)

@pytest.mark.dragonfly_pool(name="media", max=3, timeout=5)
def test_marked(dragonfly_pool):
    assert (dragonfly_pool.name, dragonfly_pool.stats().max) == ("media", 3)
    assert call("media", lambda: 1) == 1

own = FakeBackend()

@pytest.mark.dragonfly_pool(backend=own)
def test_another_backend(dragonfly_pool):
    assert backend_of(dragonfly_pool) is own

@pytest.mark.dragonfly_pool(timeout=3600)
def test_time_stands_still(dragonfly_pool, dragonfly_clock):
    dragonfly_pool.call(int)
    future = dragonfly_pool.submit(time.sleep, 7200)
    dragonfly_clock.advance(3599)
    assert not future.done()
    dragonfly_clock.advance(1)
    assert isinstance(future.exception(timeout=30), CallTimeoutError)

def test_time_goes_on(dragonfly_backend):
    with pytest.raises(CallTimeoutError), DragonflyExecutor(timeout=0.01) as executor:
        executor.submit(time.sleep, 1).result(timeout=30)
"""


def run_pytest(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = (sys.executable, "-m", "pytest", "-p", FIXTURES, "-W", "error", *arguments)
    ran = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_pytest_loads_nothing_of_the_package_for_tests_that_use_no_fixture(tmp_path: Path) -> None:
    (tmp_path / "test_loaded.py").write_text(TESTS)
    assert "2 passed" in run_pytest(tmp_path)


def test_pytest_lists_the_fixtures_and_the_marker(tmp_path: Path) -> None:
    listed = run_pytest(tmp_path, "--fixtures", "--co")
    for name in ("dragonfly_backend", "dragonfly_clock", "dragonfly_pool"):
        assert name in listed
    assert "@pytest.mark.dragonfly_pool(name='test'" in run_pytest(tmp_path, "--markers")


def test_fixtures_end_with_their_test(tmp_path: Path) -> None:
    """Even if calls hang: a fake runner cannot stop them."""
    (tmp_path / "test_ends.py").write_text(ENDS)
    assert "6 passed" in run_pytest(tmp_path, "--strict-markers")
