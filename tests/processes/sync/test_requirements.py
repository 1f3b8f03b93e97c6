"""Third-party packages on a host: installed once for each list, from a folder, so that no network is needed."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import errors
from dragonfly_executor.sync import Sync
from tests.processes.sync.conftest import MakeElsewhere
from tests.processes.sync.elsewhere import ElsewhereBackend
from tests.support.helpers import PATIENCE, error_of, values

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(180)]
LONG = 150.0
"""Seconds: an environment takes some to be made, on a busy machine many."""


def make_wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    """A wheel, without anything that builds one."""
    info = f"{name}-1.0.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in contents.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")


@pytest.fixture
def offline(tmp_path: Path) -> list[str]:
    """Lines that make an installer look in a folder and nowhere else."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "example_package", {"example_package.py": "value = 7\n", "example.pth": "extra\n"})
    return ["--no-index", f"--find-links {wheels}"]


def use(name: str) -> Any:
    """A function that belongs to no module."""
    return eval(f"lambda: __import__({name!r})", {})


VALUE = "lambda: (__import__('example_package').value, __import__('os').getpid())"


def built(home: Path) -> list[Path]:
    return sorted((home / ".cache/dragonfly_executor/environments").glob("*/.complete"))


def counting_uv(folder: Path) -> Path:
    """What stands in for uv: notes how it was called, and has venv and pip do the work."""
    folder.mkdir()
    script = f"""#!/bin/sh
echo "$@" >> {folder}/calls
case "$1" in
    venv) exec {sys.executable} -I -m venv "$4" ;;
    pip) exec "$4" -I -m pip install -q -r "$6" ;;
esac
"""
    (folder / "uv").write_text(script)
    (folder / "uv").chmod(0o755)
    return folder


def test_packages_are_installed_once_and_used_again(make: MakeElsewhere, home: Path, offline: list[str]) -> None:
    """And they come before what the host has, and after the user's own."""
    plan = Sync(requirements=[*offline, "example_package"])
    first = make(backend=ElsewhereBackend(home, plan), boot_timeout=LONG)
    assert first.submit(eval(VALUE, {})).result(LONG)[0] == 7
    path = first.submit(eval("lambda: __import__('sys').path", {})).result(PATIENCE)
    (site,) = (number for number, entry in enumerate(path) if ".cache/dragonfly_executor/environments/" in entry)
    (own,) = (number for number, entry in enumerate(path) if entry == str(home / "bundle.zip"))
    assert site < own
    first.shutdown()
    (made,) = built(home)
    when = made.stat().st_mtime_ns
    again = make(backend=ElsewhereBackend(home, plan), boot_timeout=LONG)
    assert again.submit(eval(VALUE, {})).result(LONG)[0] == 7
    assert [path.stat().st_mtime_ns for path in built(home)] == [when]
    assert made.parents[1].stat().st_mode & 0o777 == 0o700
    assert not list(made.parents[1].glob("*.txt"))


def test_without_them_there_is_nothing(make: MakeElsewhere, home: Path) -> None:
    error = error_of(make(backend=ElsewhereBackend(home)).submit(eval(VALUE, {})))
    assert isinstance(error, ModuleNotFoundError)
    assert not (home / ".cache/dragonfly_executor/environments").exists()


def test_an_install_that_fails_is_a_boot_that_failed(make: MakeElsewhere, home: Path, offline: list[str]) -> None:
    """With the installer's last words, and tried anew by the next boot."""
    plan = Sync(requirements=[*offline, "no-such-package==3.1"])
    executor = make(backend=ElsewhereBackend(home, plan), boot_timeout=LONG, max_boot_failures=1)
    error = error_of(executor.submit(pow, 2, 2), LONG)
    assert isinstance(error, errors.BootError)
    assert error.phase == "requirements"
    assert "No matching distribution found for no-such-package==3.1" in str(error)
    assert built(home) == []


def test_an_install_that_takes_too_long_is_told_as_such(make: MakeElsewhere, home: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    os.mkfifo(slow / "never")
    (slow / "uv").write_text(f"#!/bin/sh\nread -r line < {slow}/never\n")
    (slow / "uv").chmod(0o755)
    backend = ElsewhereBackend(home, Sync(requirements=["x"]), PATH=f"{slow}:{os.environ['PATH']}")
    executor = make(backend=backend, boot_timeout=1.5, max_boot_failures=1)
    error = error_of(executor.submit(pow, 2, 2))
    assert isinstance(error, errors.BootTimeoutError)
    assert error.phase == "requirements"


def test_uv_does_it_where_there_is_one_and_no_secret_stands_in_its_command(
    make: MakeElsewhere, home: Path, tmp_path: Path, offline: list[str]
) -> None:
    """Checklist 57: the address of an index may hold a password. Two runners that boot at once make one environment."""
    uv = counting_uv(tmp_path / "uv")
    secret = "--trusted-host canary-in-the-index"
    plan = Sync(requirements=[*offline, secret, "example_package"])
    backend = ElsewhereBackend(home, plan, PATH=f"{uv}:{os.environ['PATH']}")
    executor = make(1, backend=backend, boot_timeout=LONG, min=2, max=2)
    assert {value for value, _ in values((executor.submit(eval(VALUE, {})) for _ in range(4)), LONG)} == {7}
    calls = (uv / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["venv", "pip"]
    assert "canary" not in "".join(calls)
    assert len(built(home)) == 1
