"""What is to be on a pool's runners elsewhere, looked at anew before calls."""

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
"""Another look may come after so many times what the last one took, if that is less than ``check_every``."""
NO_SCRIPT = {"path": None, "name": None, "entry": None, "package": None}


class Keeper:
    """Keeps the picture of the files that travel. Any thread may use it.

    Attributes:
        snapshot: what is to be on runners; replaced, never changed.
        requirements: lines of a requirements file for the runners.
    """

    def __init__(self, plan: Sync, clock: Callable[[], float] = time.monotonic) -> None:
        self.requirements = plan.requirements
        self.snapshot: Snapshot | None = None
        self._plan = plan
        self._clock = clock
        self._scanner = Scanner(plan)
        # Callers take it too, and may be interrupted.
        self._lock = RLock()
        self._began = float("-inf")
        self._due = float("-inf")
        self._modules = 0
        self._later: frozenset[str] = frozenset()
        """Names of modules that code imports which travels by itself."""
        self._refused: str | None = None

    @property
    def script_travels(self) -> bool:
        """Whether slots can import the script."""
        return self._scanner.script is not None

    @property
    def sends_nothing(self) -> bool:
        """Whether no file is to travel."""
        return not self._plan.auto and not self._plan.extra

    @property
    def main(self) -> dict[str, Any]:
        """The script as slots find it."""
        return self._scanner.script or NO_SCRIPT

    def code_travels(self, codes: Iterable[tuple[CodeType, str]]) -> None:
        """See to it that the modules travel that these codes import when they run.

        Args:
            codes: code that travels by itself, each with the package that its relative imports start from.
        """
        names = {name for code, package in codes for module in code_imports(code) for name in absolute(module, package)}
        if not names <= self._later:
            holding(self._lock, lambda: self._add(names))

    def _add(self, names: set[str]) -> None:
        self._later |= names
        self._due = float("-inf")

    def look(self) -> None:
        """See whether anything has changed, unless that was just done and nothing was imported since. Never raises."""
        if len(sys.modules) != self._modules or self._clock() >= self._due:
            self.refresh()

    def look_again(self) -> None:
        """The same before a call, unless nothing was looked at yet: the boot that the call needs sees to that.

        The first look reads everything, and whoever submits a call is not to wait for it.
        """
        if self._began != float("-inf"):
            self.look()

    def refresh(self, doubted: Collection[str] = ()) -> None:
        """See now whether anything has changed. Never raises: what cannot be sent leaves the picture as it was.

        Args:
            doubted: files of this machine whose contents are to be read again, whatever their status says.
        """
        asked = self._clock()
        holding(self._lock, lambda: self._refresh(asked, doubted))

    def _refresh(self, asked: float, doubted: Collection[str]) -> None:
        if self._began > asked and not doubted:
            return  # somebody else has looked since
        before, self._began = self._began, self._clock()
        modules = len(sys.modules)
        try:
            self.snapshot = self._scanner.scan(doubted, self._later)
            self._refused = None
        except SyncRefused as refusal:
            if self._refused is None:
                logger.warning("%s", refusal)
            self._refused = str(refusal)
        except BaseException:  # an interrupt: nobody has looked
            self._began = before
            raise
        self._modules = modules
        now = self._clock()
        self._due = now + min(self._plan.check_every, SHARE * (now - self._began))

    def require(self) -> Snapshot:
        """What is to be on a runner that boots.

        Raises:
            BootError: nothing can be sent, because it is too much.
        """
        snapshot = self.snapshot
        if snapshot is None:
            raise errors.BootError(self._refused or "nothing was looked at yet", "sync")
        return snapshot
