"""Runners that are of another version than the parent: real interpreters, and runners that only claim to be."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dragonfly_executor import LocalBackend, VersionMismatchError
from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.versions import package_version, versions, versions_with_packages
from dragonfly_executor.testing import FakeBackend, FakeRunner
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, error_of, values
from tests.support.payloads import echo, hold

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


# -- what differs and fits nevertheless --------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def minor_version(version: str) -> str:
    return ".".join(version.split(".")[:2])


def boot_all(make_pool: MakePool, mailbox: Mailbox, gate: Gate, *runners: FakeRunner) -> None:
    """Have all of these up at the same time, with a call on each."""
    pool = make_pool(max=len(runners), max_concurrency=1, backend=FakeBackend(*runners, slots=1))
    futures = [pool.submit(hold, mailbox.path, gate.path, number) for number in range(len(runners))]
    mailbox.numbers(len(runners))
    gate.open(len(runners))
    assert values(futures) == list(range(len(runners)))
    pool.shutdown()


def test_what_differs_in_detail_is_told_once_and_lets_runners_in(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 17."""
    nearly = f"{minor_version(cloudpickle.__version__)}.99"
    other = FakeRunner(release=f"{OWN}.99", packages={"cloudpickle": nearly, "dill": "", "unheard-of": "7"})
    boot_all(make_pool, mailbox, gate, other, other, other)
    (line,) = told(caplog)
    assert "has other versions" in line
    assert f"Python is {sys.version.split()[0]} in the parent and {OWN}.99 on the runner" in line
    assert f"cloudpickle is {cloudpickle.__version__} in the parent and {nearly} on the runner" in line
    assert "dill" not in line
    assert "unheard-of" not in line


def test_it_is_told_for_each_host_and_for_each_kind_of_runner(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 17."""
    kinds = [FakeRunner(release=f"{OWN}.{patch}", host=host) for patch in (98, 99) for host in ("one", "two", "")]
    boot_all(make_pool, mailbox, gate, *kinds, *kinds)
    lines = told(caplog)
    assert len(lines) == len(kinds)
    assert sum("on one has other versions" in line for line in lines) == 2


@pytest.mark.parametrize("claim", [{"packages": {"cloudpickle": "0.1.2"}}, {"package": "7.0.0"}])
def test_another_minor_version_of_what_makes_pickles_is_a_mismatch(make: MakeExecutor, claim: dict[str, Any]) -> None:
    """Checklist 17."""
    executor = make(1, backend=FakeBackend(FakeRunner(**claim)))
    error = error_of(executor.submit(echo, 1))
    assert isinstance(error, VersionMismatchError)
    assert "in the parent and" in str(error)
    assert ("0.1.2 on the runner" in str(error)) == ("packages" in claim)


def test_where_nothing_differs_nothing_is_told(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    boot_all(make_pool, mailbox, gate, FakeRunner(), FakeRunner(packages=versions_with_packages().packages))
    assert told(caplog) == []


def test_a_hello_without_these_details_is_one() -> None:
    """Of a runner that has not learned yet to say them."""
    said = json.loads(handshake.hello("1", versions()))
    del said["versions"]["release"], said["versions"]["packages"]
    read = handshake.read_hello(json.dumps(said).encode()).versions
    assert (read.release, read.packages) == ("", {})
    assert handshake.differences(versions(), read) == []


@pytest.mark.parametrize("packages", [7, "ab", [7], None])
def test_a_hello_with_details_that_make_no_sense_is_none(packages: Any) -> None:
    said = json.loads(handshake.hello("1", versions()))
    said["versions"]["packages"] = packages
    with pytest.raises(ProtocolError, match="not a HELLO"):
        handshake.read_hello(json.dumps(said).encode())


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("file", ["__init__.py", "__info__.py"])
def test_the_version_of_a_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, file: str
) -> None:
    """In an archive as well, such as SSH hosts get."""
    source = 'raise SystemExit("imported")\n__version__ = "4.5.6"\n'
    files = {"__init__.py": "raise SystemExit\n", file: source}
    place = tmp_path / "place"
    if kind == "zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name, text in files.items():
                archive.writestr(f"package_of_a_test/{name}", text)
    else:
        (place / "package_of_a_test").mkdir(parents=True)
        for name, text in files.items():
            (place / "package_of_a_test" / name).write_text(text)
    monkeypatch.syspath_prepend(place)
    assert package_version("package_of_a_test") == "4.5.6"
    assert "package_of_a_test" not in sys.modules


def test_the_version_of_what_is_not_there_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor of what was there: an archive may be moved while a runner starts."""
    assert package_version("package_of_nowhere") == ""
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("package_of_a_test/__init__.py", '__version__ = "1"')
    monkeypatch.syspath_prepend(archive)
    assert package_version("package_of_a_test") == "1"
    archive.unlink()
    assert package_version("package_of_a_test") == ""
    assert package_version("cloudpickle") == cloudpickle.__version__
