"""The command line that starts an agent with an interpreter of this machine."""

from __future__ import annotations

import sys

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

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
"""The program that runs first in the agent.

With ``-c``, Python puts the working directory first on ``sys.path``. Another user can put a ``heapq.py`` there, and a
project may have its own ``json.py``. So this program removes the working directory before it imports anything, and the
agent keeps only the standard library. After that, the agent finds this package by the package's own ``__path__``. A
slot gets the parent's ``sys.path`` in its SETUP.

The garbage collector stays off until the agent has sent HELLO (`Agent.start`), since imports leave no garbage.
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
"""Counting fields of ``sys.flags``, and the option letter of each."""


def agent_command(python: str, fd: int, *starts: int) -> list[str]:
    """Return the command that runs an agent on the inherited descriptor `fd`.

    Args:
        python: the interpreter to run. It gets the options of the interpreter that runs here.
        fd: the descriptor number of the agent's end of the link.
        starts: the descriptor numbers of a `CallStartTable` that the agent inherits, and of the socket at which slots
            connect to share memory with the parent.
    """
    # Only the parent's sys.path may lead to this package, so the command says where the package is.
    home = __file__.rpartition("/dragonfly_executor/")[0]
    descriptors = ", ".join(f'"{number}"' for number in (fd, *starts))
    return [python, *interpreter_options(), "-c", LAUNCH.format(home=home, descriptors=descriptors)]


def is_frozen() -> bool:
    """Return True if `sys.executable` is a frozen program and no interpreter."""
    # The module __main__ may be any object: some programs put None there.
    return bool(getattr(sys, "frozen", False)) or hasattr(sys.modules.get("__main__"), "__compiled__")


def interpreter_options() -> list[str]:
    """Return the options of this interpreter that change how code behaves.

    These are the options that `subprocess` and `multiprocessing` pass on to a child interpreter, and all of ``-X``:
    warning filters, ``-P``, ``-E``, ``-I``, ``-bb``, ``-O``, ``-X utf8`` and so on. Options that come from environment
    variables are left out, as a child inherits the environment.
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
    """Return the options of this interpreter that are valid on another machine, so without paths of this machine."""
    options = interpreter_options()
    for place, option in enumerate(options):
        if option.startswith("pycache_prefix="):
            del options[place - 1 : place + 1]
            break
    return options


def runner_options() -> list[str]:
    """Return `portable_options` without ``-P``, which is in the command of each runner on another machine."""
    return [option for option in portable_options() if option != "-P"]


def _warning_rules() -> Iterable[str]:
    """Return the rules of ``-W``, without the rules that ``-b`` and ``-X dev`` imply."""
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
