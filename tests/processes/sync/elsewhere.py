"""Runners that see nothing of the parent's: as on another host, but without one.

The agent's interpreter is the one that this environment was made from, isolated, so that it has neither this package
nor the checkout; it gets the package and cloudpickle as a zip file. Home, directory and environment are others.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import cloudpickle

import dragonfly_executor
from dragonfly_executor import errors
from dragonfly_executor.backends.base import BootRequest, Node
from dragonfly_executor.backends.local import LocalBackend, LocalNode
from dragonfly_executor.protocol.parent import VARIABLE
from dragonfly_executor.sync import Sync

INTERPRETER = str(Path(sys.executable).resolve())
"""Outside the environment that links to it."""
KEPT = ("PATH", "TMPDIR", "LANG", "DRAGONFLY_TEST_CENSUS")
MARKER = "ELSEWHERE_RUNNER"


def bundle(path: Path) -> Path:
    """What a host gets that has nothing: a zip file with this package and cloudpickle."""
    with zipfile.ZipFile(path, "w") as archive:
        for package in (dragonfly_executor, cloudpickle):
            folder = Path(package.__file__).parent
            for file in sorted(folder.rglob("*.py")):
                archive.write(file, file.relative_to(folder.parent))
    return path


class ElsewhereNode(LocalNode):
    shares_disk = False

    def stop(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # also where a test reads from it on a thread of its own
        super().stop()


class ElsewhereBackend(LocalBackend):
    """Boots agents that see nothing of this process's.

    Args:
        home: the folder that is everything there: home, directory and the bundle.
        sync: what travels.
        first: a statement that agents run before all else.
        env: variables that the agents get in addition.
    """

    name = "elsewhere"

    def __init__(
        self, home: Path, sync: Sync | None = None, *, first: str = "", python: str = INTERPRETER, **env: str
    ) -> None:
        super().__init__(python=python)
        home.mkdir(exist_ok=True)
        self.sync = sync if sync is not None else Sync(check_every=0)
        self._home = home
        self._more = env
        self._first = first
        self._bundle = home / "bundle.zip"
        if not self._bundle.exists():
            bundle(self._bundle)
        self.nodes: list[ElsewhereNode] = []

    def boot(self, request: BootRequest) -> Node:
        own_end, agent_end = socket.socketpair()
        marker = os.urandom(8).hex()
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment |= {
            "HOME": str(self._home),
            VARIABLE: request.parent.encode(),
            MARKER: marker,
            "DRAGONFLY_PARENT_PID": str(os.getpid()),
            **self._more,
        }
        code = (
            f"{self._first}\nimport sys; sys.path.insert(0, {str(self._bundle)!r})\n"
            "from dragonfly_executor.runner.__main__ import main\n"
            f"main(['--fd', '{agent_end.fileno()}'])"
        )
        try:
            process = subprocess.Popen(
                [self._python, "-I", "-c", code],
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=self._home,
                pass_fds=[agent_end.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            own_end.close()
            raise errors.BootError(f"cannot start {self._python}: {error}") from error
        finally:
            agent_end.close()
        self.nodes.append(ElsewhereNode(process, own_end, f"{MARKER}={marker}".encode()))
        return self.nodes[-1]
