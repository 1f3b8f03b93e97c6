"""A process mark tells its process from every child, however that was forked."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A program of its own, with one thread: a child that C code forks from several threads may wait for them at the GIL.
PROGRAM = """
import ctypes
import os
import sys

from dragonfly_executor.util import process_mark
from dragonfly_executor.util.process_mark import ProcessMark

system, how = sys.argv[1:]
if system == "darwin":
    sys.platform = system
elif system == "an old linux":
    process_mark.MADV_WIPEONFORK = 9999
mark = ProcessMark()
assert mark.is_here()
pid = os.fork() if how == "python" else ctypes.PyDLL(None).fork()
if not pid:
    had = mark.is_here()
    mark.move_here()
    # The child has it from now on, and its own children have not.
    below = mark.is_here() and os.fork()
    if not below:
        os._exit(int(mark.is_here()))
    os._exit(int(had or os.waitstatus_to_exitcode(os.waitpid(below, 0)[1]) or not mark.is_here()))
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child had the mark, or could not have it"
assert mark.is_here()
"""


@pytest.mark.parametrize("how", ["python", "C"])
@pytest.mark.parametrize("system", ["this", "darwin", "an old linux"])
def test_a_forked_child_has_no_mark(system: str, how: str) -> None:
    """Without memory that the kernel clears in children, the process id tells."""
    subprocess.run([sys.executable, "-c", PROGRAM, system, how], check=True, timeout=30)
