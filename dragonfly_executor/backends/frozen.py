"""Agents of a frozen program (PyInstaller, cx_Freeze): there is no interpreter, so the program itself is started again.

`multiprocessing` starts its workers in the same way. It runs the program with arguments that `freeze_support`
recognises, and `freeze_support` then reads from a pipe which code to run in place of the program. An agent uses that
protocol. So the program must call `freeze_support` at its top. If the call is missing, no agent is started, because
that runs the whole program again.
"""

from __future__ import annotations

import pickle
import sys
import threading

from dragonfly_executor import errors
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType
    from typing import ClassVar

ADVICE = (
    "Call multiprocessing.freeze_support() or dragonfly_executor.freeze_support() first in the program's main script, "
    'under `if __name__ == "__main__":`'
)


def freeze_support() -> None:
    """Run as a runner if this process was started as one; otherwise do nothing. Does not return in a runner.

    A frozen program must call this first in its main script, under ``if __name__ == "__main__":``.
    `multiprocessing.freeze_support` does the same if the freezer supports it on this platform, as PyInstaller does.
    """
    from multiprocessing import spawn

    spawn.freeze_support()
    _Support.called = True


class _Support:
    """State that records whether this process has called `freeze_support`."""

    called: ClassVar[bool] = False


class FrozenAgent:
    """The agent in the form that `multiprocessing.spawn` unpickles and runs, in place of a `Process`.

    Args:
        starts: further descriptor numbers that the agent inherits; see `agent_command`.
    """

    def __init__(self, *starts: int) -> None:
        self._starts = starts

    def _bootstrap(self, link: int) -> None:
        """Run the agent. `link` is a duplicate of the descriptor from which the pickle was read. Does not return."""
        from dragonfly_executor.runner.__main__ import main

        main(["--fd", *map(str, (link, *self._starts))])


def preamble(*starts: int) -> bytes:
    """Return the first bytes on the link: empty preparation data and the pickled agent. Then the agent sends HELLO."""
    return pickle.dumps({}, 5) + pickle.dumps(FrozenAgent(*starts), 5)


def frozen_command(fd: int) -> list[str]:
    """Return the command that starts this program as an agent.

    Args:
        fd: the descriptor of the agent's end of the link, which the new process inherits.

    Raises:
        BootError: the program does not call `freeze_support`, or this process is a runner that ran the program instead.
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
    """Return True if the code of the main script uses `name`. The code is found on the main thread's stack."""
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
