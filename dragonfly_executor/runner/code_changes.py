"""Tracks the files of the user's modules that a slot has loaded, and tells whether they have changed.

Only for slots that see the parent's disk. For other slots the parent sends changed files, so the agent knows.
"""

from __future__ import annotations

import os
import sys
import time

from dragonfly_executor.serialization.module_origin import is_own
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from dragonfly_executor.serialization.slot_main import SlotMain

    Status = tuple[int, int, int] | None

AFTER_A_PAUSE = 150e-6
"""Minimum seconds without a call after which a slot checks the files. An edit takes a user at least as long."""
PAUSE_SHARE = 20
"""Minimum pause before a check, as a multiple of the check's cost. A check of a thousand files takes 1 ms."""
SHARE = 50
"""Minimum time between two checks of a slot that is never without a call, as a multiple of the check's cost."""
AT_LEAST_EVERY = 0.2
"""Maximum seconds between two checks."""
TRIALS = 3
"""Checks after which their cost is known. A single one may take long only because of other load."""
_PACKAGE = __name__.partition(".")[0]
_MAIN = ("__main__", "__mp_main__")


class LoadedFiles:
    """The files of the modules that this process imports from now on, except installed ones.

    Args:
        main: the script, whose file counts once it is imported.
    """

    def __init__(self, main: SlotMain) -> None:
        self._main = main
        # The script's module gets the second name when the slot is set up.
        self._seen = {*sys.modules, _MAIN[1]}
        self._count = len(self._seen)
        self._files: dict[str, Status] = {}
        self._looked = 0.0
        self._pause = self._rest = 0.0
        self._each = float("inf")
        """Lowest seconds per file of any check. A single check's time depends on other load."""
        self._checks = 0

    def forget(self, names: Iterable[str]) -> None:
        """Watch these modules if they are imported again: they were the agent's, and the next ones are the user's."""
        self._seen.difference_update(names)

    def note(self) -> None:
        """Record modules imported since the last call. Call this when a call's function starts and when it ends."""
        script = self._main.file
        if script is not None and script not in self._files:
            self._files[script] = _status(script)
        if len(sys.modules) == self._count:
            return
        modules = dict(sys.modules)
        for name in modules.keys() - self._seen:
            self._seen.add(name)
            file = _file(name, modules[name])
            if file is not None:
                self._files.setdefault(file, _status(file))
        self._count = len(modules)

    def are_stale(self, now: float, idle_since: float) -> bool:
        """Return True if a file has changed since it was loaded. Skip the check if it is too early.

        Args:
            now: the time on `time.perf_counter`.
            idle_since: the end of the last call, on the same clock.
        """
        if now - idle_since < self._pause and now - self._looked < self._rest:
            return False
        stale = any(_status(file) != status for file, status in self._files.items())
        self._looked = time.perf_counter()
        if self._files:
            self._each = min(self._each, (self._looked - now) / len(self._files))
            self._checks += 1
            cost = self._each * len(self._files) if self._checks >= TRIALS else 0.0
            self._pause = min(max(AFTER_A_PAUSE, PAUSE_SHARE * cost), AT_LEAST_EVERY)
            self._rest = min(max(AFTER_A_PAUSE, SHARE * cost), AT_LEAST_EVERY)
        return stale


def _file(name: str, module: Any) -> str | None:
    """Return the file of a user's module; None for all other modules."""
    if name in _MAIN or name.partition(".")[0] == _PACKAGE:
        return None
    # Bypasses the module's own __getattr__, which may import a lazy module.
    file = getattr(module, "__dict__", {}).get("__file__")
    return file if type(file) is str and os.path.isabs(file) and is_own(file) else None


def _status(file: str) -> Status:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
