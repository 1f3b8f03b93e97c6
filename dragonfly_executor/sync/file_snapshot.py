"""A snapshot of the files that a pool's remote runners need, updated before calls."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from dragonfly_executor import errors
from dragonfly_executor.serialization.code_names import code_imports
from dragonfly_executor.sync.lazy_imports import absolute
from dragonfly_executor.sync.scan import Scanner, Snapshot, SyncRefused
from dragonfly_executor.util.condition import RLock, holding

if TYPE_CHECKING:
    from types import CodeType

    from dragonfly_executor.sync.options import Sync

logger = logging.getLogger("dragonfly_executor")
SHARE = 20
"""Ratio of the pause after a scan to the scan's duration, unless ``check_every`` is shorter."""
NO_SCRIPT = {"path": None, "name": None, "entry": None, "package": None}


class FileSnapshot:
    """The current snapshot of the files that are sent. Any thread may use it.

    Attributes:
        snapshot: the files that runners must have. It is replaced, never changed.
        requirements: lines of a requirements file for the runners.
    """

    def __init__(self, plan: Sync, clock: Callable[[], float] = time.monotonic) -> None:
        self.requirements = plan.requirements
        self.snapshot: Snapshot | None = None
        self._plan = plan
        self._clock = clock
        self._scanner = Scanner(plan)
        # Callers take this lock too, and may be interrupted.
        self._lock = RLock()
        self._began = float("-inf")
        self._due = float("-inf")
        self._modules = 0
        self._later: frozenset[str] = frozenset()
        """Names of the modules that are imported by code which is sent by value."""
        self._refused: str | None = None

    @property
    def script_travels(self) -> bool:
        """Return whether slots can import the script."""
        return self._scanner.script is not None

    @property
    def sends_nothing(self) -> bool:
        """Return whether no file is sent."""
        return not self._plan.auto and not self._plan.extra

    @property
    def main(self) -> dict[str, Any]:
        """Return the description of the script as slots find it."""
        return self._scanner.script or NO_SCRIPT

    def code_travels(self, codes: Iterable[tuple[CodeType, str]]) -> None:
        """Add the modules that these codes import when they run to the snapshot.

        Args:
            codes: code that is sent by value, each with the package from which its relative imports start.
        """
        names = {name for code, package in codes for module in code_imports(code) for name in absolute(module, package)}
        if not names <= self._later:
            holding(self._lock, lambda: self._add(names))

    def _add(self, names: set[str]) -> None:
        self._later |= names
        self._due = float("-inf")

    def scan(self) -> None:
        """Scan for changes, unless a recent scan suffices and no module was imported since. Never raises."""
        if len(sys.modules) != self._modules or self._clock() >= self._due:
            self.refresh()

    def scan_again(self) -> None:
        """Scan for changes before a call, as `scan` does, unless there was no scan yet.

        The first scan reads all files, and a submit must not wait for it. The boot that the call needs does that scan.
        """
        if self._began != float("-inf"):
            self.scan()

    def refresh(self, doubted: Collection[str] = ()) -> None:
        """Scan for changes now. Never raises: if the files cannot be sent, the snapshot stays as it was.

        Args:
            doubted: files of this machine whose contents are read again, even if their status is unchanged.
        """
        asked = self._clock()
        holding(self._lock, lambda: self._refresh(asked, doubted))

    def _refresh(self, asked: float, doubted: Collection[str]) -> None:
        if self._began > asked and not doubted:
            return  # another thread has scanned since
        before, self._began = self._began, self._clock()
        modules = len(sys.modules)
        try:
            self.snapshot = self._scanner.scan(doubted, self._later)
            self._refused = None
        except SyncRefused as refusal:
            if self._refused is None:
                logger.warning("%s", refusal)
            self._refused = str(refusal)
        except BaseException:  # after an interrupt this scan does not count
            self._began = before
            raise
        self._modules = modules
        now = self._clock()
        self._due = now + min(self._plan.check_every, SHARE * (now - self._began))

    def require(self) -> Snapshot:
        """Return the snapshot for a runner that boots.

        Raises:
            BootError: the files are too large to be sent.
        """
        snapshot = self.snapshot
        if snapshot is None:
            raise errors.BootError(self._refused or "no scan was made yet", "sync")
        return snapshot
