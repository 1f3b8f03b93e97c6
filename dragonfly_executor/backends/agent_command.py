"""The command that starts an agent with an interpreter of this machine."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterable

LAUNCH = """\
import gc
import sys
gc.disable()
if not sys.flags.safe_path:
    del sys.path[0]
import os
library, dynamic = os.path.dirname(os.__file__), os.sep + "lib-dynload"
archive = "python%d%d.zip" % sys.version_info[:2]
path = [p for p in sys.path if p == library or p.endswith(dynamic) or os.path.basename(p) == archive] or sys.path[:]
sys.path[:] = [*path, {home!r}]
import dragonfly_executor
sys.path[:] = path
from dragonfly_executor.runner.__main__ import main
main(["--fd", {descriptors}])
"""
"""Runs in the agent before anything else.

Python puts the working directory first on ``sys.path`` for ``-c``. Another user can put a ``heapq.py`` there, and a
project may have a ``json.py`` of its own. So the working directory goes before anything is imported, and the agent
keeps the standard library alone. It finds our package by the package's own ``__path__`` from then on. A slot gets the
parent's ``sys.path`` in its set-up.

Nothing that the agent imports is garbage, so it looks for none until it has said hello (`Agent.start`).
"""

_LETTERS = {
    "debug": "d",
    "optimize": "O",
    "dont_write_bytecode": "B",
    "no_site": "S",
    "verbose": "v",
    "bytes_warning": "b",
    "quiet": "q",
}
"""Fields of ``sys.flags`` that count how often an option was given, and the option's letter."""


def agent_command(python: str, fd: int, *starts: int) -> list[str]:
    """Return the command that runs an agent on the inherited descriptor `fd`.

    Args:
        python: the interpreter. It gets the options of the one that runs here.
        fd: the number of the agent's end of the link.
        starts: the numbers of what it inherits of a `StartTable`.
    """
    # The package may be importable in the parent alone, through its sys.path: the agent is told where it is.
    home = __file__.rpartition("/dragonfly_executor/")[0]
    descriptors = ", ".join(f'"{number}"' for number in (fd, *starts))
    return [python, *interpreter_options(), "-c", LAUNCH.format(home=home, descriptors=descriptors)]


def is_frozen() -> bool:
    """Return True if `sys.executable` is the program itself."""
    # What stands for __main__ may be anything: some programs put None there.
    return bool(getattr(sys, "frozen", False)) or hasattr(sys.modules.get("__main__"), "__compiled__")


def interpreter_options() -> list[str]:
    """Return the options with which this interpreter was started, as far as they change what code does.

    These are the options that `subprocess` and `multiprocessing` pass on to a child interpreter, and all of ``-X``:
    warning filters, ``-P``, ``-E``, ``-I``, ``-bb``, ``-O``, ``-X utf8`` and so on. Options that an environment
    variable has set reach a child by the environment.
    """
    flags = sys.flags
    options = [f"-{letter * count}" for name, letter in _LETTERS.items() if (count := getattr(flags, name)) > 0]
    if flags.isolated:
        options.append("-I")
    else:
        alone = (("ignore_environment", "-E"), ("no_user_site", "-s"), ("safe_path", "-P"))
        options.extend(option for name, option in alone if getattr(flags, name))
    options.extend(f"-W{rule}" for rule in _warning_rules())
    if flags.dev_mode:
        options.extend(("-X", "dev"))
    for name, value in sys._xoptions.items():
        if name != "dev":
            options.extend(("-X", name if value is True else f"{name}={value}"))
    return options


def portable_options() -> list[str]:
    """Return the options of this interpreter that mean the same on another machine: all but folders of this one."""
    options = interpreter_options()
    for place, option in enumerate(options):
        if option.startswith("pycache_prefix="):
            del options[place - 1 : place + 1]
            break
    return options


def _warning_rules() -> Iterable[str]:
    """Return the rules of ``-W``, without those that ``-b`` and ``-X dev`` have added themselves."""
    rules = list(sys.warnoptions)
    implied = []
    if sys.flags.bytes_warning:
        implied.append("error::BytesWarning" if sys.flags.bytes_warning > 1 else "default::BytesWarning")
    if sys.flags.dev_mode:
        implied.append("default")
    for rule in implied:
        if rule in rules:
            rules.remove(rule)
    return rules
