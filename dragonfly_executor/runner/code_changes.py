"""The user's own modules that a slot has loaded, and whether their files are still what they were.

Only for slots that see the parent's disk: for the others the files that changed are sent, and the agent knows.
"""

from __future__ import annotations

import os
import sys
import time

from dragonfly_executor.serialization.module_origin import is_own

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.serialization.slot_main import SlotMain

    Status = tuple[int, int, int] | None

AFTER_A_PAUSE = 150e-6
"""Seconds without a call after which a slot looks at the files: whoever edits one needs as long."""
PAUSE_SHARE = 20
"""The same in so many times what a look takes, if that is longer: a thousand files take a millisecond."""
SHARE = 50
"""A slot that is never without a call looks again after so many times what a look takes."""
AT_LEAST_EVERY = 0.2
"""Seconds after which it looks in any case."""
_PACKAGE = __name__.partition(".")[0]
_MAIN = ("__main__", "__mp_main__")


class Loaded:
    """The files of the modules that this process imports from now on, except what is installed.

    Args:
        main: the script, which is one of them once it is imported.
    """

    def __init__(self, main: SlotMain) -> None:
        self._main = main
        self._seen = {*sys.modules}
        self._count = len(self._seen)
        self._files: dict[str, Status] = {}
        self._looked = 0.0
        self._pause = self._rest = 0.0
        self._each = float("inf")
        """Seconds that a file takes at best. What a look took says more about what else ran meanwhile."""

    def note(self) -> None:
        """Take note of what was imported since; call it when a call's function begins, and when it has ended."""
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
        """Return True if a file has changed since it was loaded, as far as it is time to look.

        Args:
            now: the time on `time.perf_counter`.
            idle_since: when the last call ended, on the same clock.
        """
        if now - idle_since < self._pause and now - self._looked < self._rest:
            return False
        stale = any(_status(file) != status for file, status in self._files.items())
        self._looked = time.perf_counter()
        if self._files:
            self._each = min(self._each, (self._looked - now) / len(self._files))
            cost = self._each * len(self._files)
            self._pause = min(max(AFTER_A_PAUSE, PAUSE_SHARE * cost), AT_LEAST_EVERY)
            self._rest = min(max(AFTER_A_PAUSE, SHARE * cost), AT_LEAST_EVERY)
        return stale


def _file(name: str, module: Any) -> str | None:
    """Return the file of a module that is the user's own; None for all others."""
    if name in _MAIN or name.partition(".")[0] == _PACKAGE:
        return None
    # Past the module's own __getattr__: a lazy one would be imported by a look at it.
    file = getattr(module, "__dict__", {}).get("__file__")
    return file if type(file) is str and os.path.isabs(file) and is_own(file) else None


def _status(file: str) -> Status:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
