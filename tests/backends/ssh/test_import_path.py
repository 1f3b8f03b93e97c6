"""What runs on a host imports from: the agent from the archive and the standard library, a call from the rest too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost
from tests.support.helpers import PATIENCE, error_of
from tests.support.sshd.host import MINOR

MODULES = ("heapq", "json", "selectors", "struct", "tenacity", "cloudpickle", "dragonfly_executor")
"""Which an agent, or its first step, imports."""


def litter(folder: Path, mark: Path) -> None:
    """Put modules there that say that they ran."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r})\n")


def importing(name: str) -> Callable[[], Any]:
    """A call that imports a module and returns the value in it."""

    def imported() -> Any:
        return __import__(name).VALUE

    return imported


def test_nothing_is_imported_from_the_login_directory(
    make_host: MakeHost, make_backend: MakeBackend, make: Make
) -> None:
    """Another user may be able to write there."""
    host = make_host()
    mark = host.folder / "ran"
    litter(host.home, mark)
    assert make(make_backend(host)).submit(pow, 2, 10).result(PATIENCE) == 1024
    assert not mark.exists()


def test_an_agent_imports_nothing_of_the_hosts_own(make_host: MakeHost, make_backend: MakeBackend, make: Make) -> None:
    """PYTHONPATH comes before the standard library, so only calls go by it."""
    host = make_host()
    mark, library = host.folder / "ran", host.home / "library"
    litter(library, mark)
    host.profile(f"export PYTHONPATH={library}")
    executor = make(make_backend(host))
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    assert not mark.exists()


def test_a_call_imports_what_a_python_on_the_host_imports(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    """PYTHONPATH there, the one of env=, and the user's own site-packages."""
    programs = tmp_path / "programs"
    programs.mkdir()
    # No virtual environment: those leave the user's site-packages out.
    (programs / f"python{MINOR}").symlink_to(Path(sys.base_prefix) / "bin" / f"python{MINOR}")
    host = make_host(programs=[programs])
    user_site = host.home / ".local" / "lib" / f"python{MINOR}" / "site-packages"
    if sys.platform == "darwin":
        pytest.skip("a framework build of Python has the user's site-packages elsewhere")
    for folder, name in ((host.home / "library", "of_path"), (user_site, "of_user")):
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(f"VALUE = {name!r}\n")
    host.profile(f"export PYTHONPATH={host.home}/library")
    executor = make(make_backend(host))
    assert executor.submit(importing("of_path")).result(PATIENCE) == "of_path"
    assert executor.submit(importing("of_user")).result(PATIENCE) == "of_user"


def test_a_path_that_the_user_gives_is_imported_from(
    make_host: MakeHost, make_backend: MakeBackend, make: Make
) -> None:
    host = make_host()
    (host.home / "given").mkdir()
    (host.home / "given" / "of_env.py").write_text("VALUE = 1\n")
    backend = make_backend(host, env={"PYTHONPATH": str(host.home / "given")})
    assert make(backend).submit(importing("of_env")).result(PATIENCE) == 1


def test_a_missing_module_is_said_to_be_missing_on_the_host_as_the_user_calls_it(
    make_host: MakeHost, make_backend: MakeBackend, make: Make
) -> None:
    host = make_host()
    error = error_of(make(make_backend(host)).submit(importing("not_to_be_had")))
    assert any(f"is not on the host {host.spec!r}" in note for note in error.__notes__)
