"""Agents of a frozen program (PyInstaller, cx_Freeze): it has no interpreter, so an agent is the program started again.

`multiprocessing` starts its workers the same way: the program is run with arguments that `freeze_support` recognises,
and `freeze_support` then reads from a pipe what to be in place of the program. An agent uses that entrance. So it needs
the same call at the program's top, and is never started where the call is missing: the program would run again.
"""

from __future__ import annotations

import pickle
import sys
import threading

from dragonfly_executor import errors

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from types import CodeType
    from typing import ClassVar

ADVICE = (
    "Call multiprocessing.freeze_support() or dragonfly_executor.freeze_support() first in the program's main script, "
    'under `if __name__ == "__main__":`'
)


def freeze_support() -> None:
    """Be a runner if this process was started as one; otherwise do nothing. Does not return in a runner.

    A frozen program calls it first in its main script, under ``if __name__ == "__main__":``.
    `multiprocessing.freeze_support` does the same where the freezer supports it on this platform, as PyInstaller does.
    """
    from multiprocessing import spawn

    spawn.freeze_support()
    _Support.called = True


class _Support:
    """Remembers that this process has called `freeze_support`."""

    called: ClassVar[bool] = False


class FrozenAgent:
    """What `multiprocessing.spawn` unpickles in the new process in the place of a `Process`, and runs.

    Args:
        starts: the numbers of what it inherits of a `StartTable`.
    """

    def __init__(self, *starts: int) -> None:
        self._starts = starts

    def _bootstrap(self, link: int) -> None:
        """Run the agent. `link` is a duplicate of the descriptor that the pickle came through. Does not return."""
        from dragonfly_executor.runner.__main__ import main

        main(["--fd", *map(str, (link, *self._starts))])


def preamble(*starts: int) -> bytes:
    """Return what the parent writes to the link first: no preparation, and the agent. The agent answers with HELLO."""
    return pickle.dumps({}, 5) + pickle.dumps(FrozenAgent(*starts), 5)


def frozen_command(fd: int) -> list[str]:
    """Return the command that starts this program as an agent.

    Args:
        fd: the inherited descriptor of the agent's end of the link.

    Raises:
        BootError: the program does not call `freeze_support`, or this process was to be a runner and is not.
    """
    from multiprocessing import spawn

    if spawn.is_forking(sys.argv):
        text = f"this process was started as a runner, and {sys.executable} ran the program in it instead. {ADVICE}"
        raise errors.BootError(text, final=True)
    if not (_Support.called or _main_script_calls(freeze_support.__name__)):
        text = (
            f"{sys.executable} is a frozen program: a runner is the program started again, "
            f"and its main script does not call freeze_support(). {ADVICE}"
        )
        raise errors.BootError(text, final=True)
    return [sys.executable, "--multiprocessing-fork", "tracker_fd=None", f"pipe_handle={fd}"]


def _main_script_calls(name: str) -> bool:
    """Return True if the main script's code uses this name. The code is found on the main thread's stack."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    names = getattr(sys.modules.get("__main__"), "__dict__", None)
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals is names:
            return _uses(frame.f_code, name)
        frame = frame.f_back
    return False


def _uses(code: CodeType, name: str) -> bool:
    inner = (constant for constant in code.co_consts if hasattr(constant, "co_names"))
    return name in code.co_names or any(_uses(part, name) for part in inner)
