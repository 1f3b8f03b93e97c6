"""The census sees what a test leaves, waits for what is going, and costs little."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.census import Census, Snapshot

ROOT = Path(__file__).parents[2]
ORPHAN = """
import subprocess, sys
sleeps = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
orphan = subprocess.Popen(sleeps, stdout=subprocess.PIPE, start_new_session=True)
# A program that is being started has no environment for a moment.
orphan.stdout.readline()
print(orphan.pid)
"""


@pytest.fixture
def before(census: Census) -> Snapshot:
    return census.look()


@pytest.fixture
def waiting_thread() -> Iterator[threading.Event]:
    event = threading.Event()
    thread = threading.Thread(target=event.wait, name="waits")
    thread.start()
    yield event
    event.set()
    thread.join()


def test_nothing_is_left_by_nothing(census: Census, before: Snapshot) -> None:
    assert not census.left_since(before)


def test_a_thread_is_found_and_described_with_its_stack(
    census: Census, before: Snapshot, waiting_thread: threading.Event
) -> None:
    left = census.left_since(before, patience=0.05)
    assert [thread.name for thread in left.threads] == ["waits"]
    assert "in wait" in census.describe(left)


def test_a_thread_that_is_on_its_way_out_is_waited_for(
    census: Census, before: Snapshot, waiting_thread: threading.Event
) -> None:
    threading.Timer(0.05, waiting_thread.set).start()
    assert not census.left_since(before)


def test_a_descriptor_is_found_even_where_another_had_its_number(census: Census) -> None:
    first = os.open(os.devnull, os.O_RDONLY)
    before = census.look()
    os.close(first)
    second, writer = os.pipe()
    left = census.left_since(before, patience=0)
    os.close(second)
    os.close(writer)
    assert second == first
    assert {number for number, *_ in left.descriptors} == {second, writer}


def test_a_temporary_file_is_found(census: Census, before: Snapshot) -> None:
    with tempfile.NamedTemporaryFile() as file:
        left = census.left_since(before, patience=0)
        assert left.files == {Path(file.name).name}
        assert file.name in census.describe(left)


def test_a_process_is_found_and_waited_for(census: Census, before: Snapshot) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        left = census.left_since(before, patience=0.05)
        assert [found.pid for found in left.processes] == [process.pid]
        assert "cat" in census.describe(left)
    assert not census.left_since(before)


def test_an_orphan_is_found_and_ended(census: Census, before: Snapshot) -> None:
    """A grandchild in a session of its own, its parent gone: nothing but its environment links it to us."""
    output = subprocess.run([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, check=True).stdout
    left = census.left_since(before, patience=0.05)
    assert [found.pid for found in left.processes] == [int(output)]
    census.end(left)
    assert not census.left_since(before)


def test_a_stranger_is_not_ours(before: Snapshot) -> None:
    stranger = Census(tempfile.gettempdir())
    assert all(process in before.processes for process in stranger.processes())


LEAKS = """
import gc, os, subprocess, threading, pytest

class Bad:
    def __del__(self):
        raise ValueError("raised in a finalizer")

def test_thread():
    threading.Thread(target=threading.Event().wait, args=(20,), daemon=True, name="stays").start()
def test_descriptor():
    os.pipe()
def test_process():
    subprocess.Popen.__del__ = lambda self: None
    subprocess.Popen(["sleep", "60"])
def test_file():
    open(os.environ["TMPDIR"] + "/kept", "w").close()
def test_unraisable():
    Bad()
    gc.collect()
def test_excepthook():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
def test_clean():
    pass
@pytest.mark.no_census("it is about this mark")
def test_without_census():
    os.pipe()
"""


@pytest.mark.slow
def test_each_kind_of_leak_fails_its_test_and_no_other(tmp_path: Path) -> None:
    """The real configuration and the real conftest, on a suite that leaks."""
    suite = tmp_path / "tests"
    (suite / "support").mkdir(parents=True)
    for name in (
        "conftest.py",
        "__init__.py",
        "support/__init__.py",
        "support/census.py",
        "support/helpers.py",
        "support/patience.py",
    ):
        (suite / name).write_text((ROOT / "tests" / name).read_text())
    (suite / "conftest.py").write_text(
        (suite / "conftest.py").read_text().replace("left_since(", "left_since(patience=0.2, before=")
    )
    (suite / "test_leaks.py").write_text(LEAKS)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "--color=no", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    output = run.stdout
    for name, trace in {
        "thread": "thread stays (daemon)",
        "descriptor": "descriptor",
        "process": "sleep 60",
        "file": "kept",
    }.items():
        assert f"ERROR tests/test_leaks.py::test_{name} " in output, output
        assert trace in output
    for name in ("unraisable", "excepthook"):
        assert f"FAILED tests/test_leaks.py::test_{name} " in output, output
    for name in ("clean", "without_census"):
        assert f"PASSED tests/test_leaks.py::test_{name}\n" in output, output
        assert f"ERROR tests/test_leaks.py::test_{name} " not in output, output
    assert run.returncode == 1
