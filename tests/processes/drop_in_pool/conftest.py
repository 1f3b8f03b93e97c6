"""Pools with multiprocessing's methods, and programs that use them; all of it is gone when a test ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.multiprocessing import Pool

ROOT = Path(__file__).parents[3]
MakePool = Callable[..., Pool]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def make() -> Iterator[MakePool]:
    """Makes pools, and ends them whatever runs there."""
    made: list[Pool] = []

    def make(*arguments: Any, **options: Any) -> Pool:
        made.append(Pool(*arguments, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.terminate()


@pytest.fixture
def pool(make: MakePool) -> Pool:
    """A pool of two processes."""
    return make(2)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file that calls add lines to."""
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs of `programs`, strict about warnings, and kills those that are there when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.processes.drop_in_pool.programs", name]
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
