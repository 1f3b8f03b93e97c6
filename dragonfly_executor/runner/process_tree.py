"""Process trees: finds and kills every process that descends from a call.

On Linux an agent and each of its slots are *child subreapers*. A process that a call leaves running becomes a child of
its slot, and a child of the agent when the slot ends, however the process was daemonized. So a child of the agent that
is not a slot is a leftover of a slot that ended. Other systems offer only process groups.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Container, Iterable
from functools import cache

from dragonfly_executor.util import plain_signal as signal
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctypes import CDLL

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PF_KTHREAD = 0x00200000
PYTHON_IGNORES = frozenset((signal.SIGPIPE, getattr(signal, "SIGXFSZ", signal.SIGPIPE)))
DETACH_VARIABLE = "DRAGONFLY_DETACH"
"""Environment variable of a process that may outlive its call and its runner; the value is 1."""
LOOKS = 10_000
"""Maximum reads of a process's environment during its exec, which takes microseconds."""
SWEEPS = 20
"""Maximum rounds of `kill_members`: a process may fork between two of them."""


@cache
def _library() -> CDLL:
    """Return the C library. Opening it takes as long as a fork, so slots get the one that their agent has opened."""
    # Loading ctypes takes milliseconds; an agent does it while it waits for the parent.
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if sys.platform.startswith("linux"):
        _library().prctl(option, value, 0, 0, 0)


def become_subreaper() -> None:
    """Make this process adopt the orphans among its descendants (Linux; see prctl(2))."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies. Exit at once if the parent is dead already (Linux)."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def outlive_parent() -> None:
    """Undo `die_with_parent`."""
    _prctl(PR_SET_PDEATHSIG, 0)


def reset_signals() -> None:
    """Unblock all signals and give each ignored signal its default action.

    A process inherits both from the thread that started it. An agent whose SIGCHLD is ignored cannot reap its slots,
    and a slot whose SIGTERM is blocked cannot be terminated by its own call. Python itself ignores SIGPIPE and SIGXFSZ.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in range(1, signal.NSIG):
        if number not in PYTHON_IGNORES and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def children(pid: int) -> list[int]:
    """Return the process ids of the direct children of `pid`; none if /proc is not available."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as listing:
                found.extend(int(child) for child in listing.read().split())
        except OSError:
            continue
    return found


def descendants(pid: int) -> list[int]:
    """Return the process ids of all descendants of `pid`, nearest first."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children(waiting.pop())
        found.extend(below)
        waiting.extend(below)
    return found


def kill(pid: int) -> None:
    """Send SIGKILL to a process. Ignore a process that is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def kill_group(group: int) -> None:
    """Send SIGKILL to a process group. Ignore a group that is gone."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def kill_tree(pid: int) -> None:
    """Send SIGKILL to `pid`, its process group and its descendants, except detached ones."""
    # Stop it first, so that it forks nothing between the listing and the kill.
    try:
        os.kill(pid, signal.SIGSTOP)
    except (ProcessLookupError, PermissionError):
        kill_group(pid)
        return
    below = [process for process in descendants(pid) if not is_detached(process)]
    kill_group(pid)
    kill(pid)
    for process in below:
        kill(process)


def kill_children(but: Container[int] = ()) -> None:
    """Kill and reap the children of this process with their descendants, except those in `but` and detached ones."""
    while left := [pid for pid in children(os.getpid()) if pid not in but and not is_detached(pid)]:
        for pid in left:
            kill_tree(pid)
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                continue


def status_of(pid: str) -> list[bytes]:
    """Return the fields of /proc/PID/stat, starting with the state."""
    with open(f"/proc/{pid}/stat", "rb") as status:
        # The name in parentheses may contain anything, so fields are counted from its end.
        return status.read().rpartition(b")")[2].split()


def _has_ended(pid: str) -> bool:
    """Return True if all threads of a process have ended, so that it is a zombie."""
    fields = status_of(pid)
    return fields[0] in (b"Z", b"X") and int(fields[17]) <= 1


def _environment(pid: str) -> bytes:
    """Return a process's environment. During exec it is empty for an instant, so retry."""
    for _ in range(LOOKS):
        with open(f"/proc/{pid}/environ", "rb") as environment:
            found = environment.read()
        if found:
            return found
        fields = status_of(pid)
        # The kernel sets the start of the code last.
        state, flags, start_of_code = fields[0], int(fields[6]), fields[23]
        if start_of_code != b"0" or state in (b"Z", b"X") or flags & PF_KTHREAD:
            break
        os.sched_yield()
    # The exec may have ended between the two reads.
    with open(f"/proc/{pid}/environ", "rb") as environment:
        return environment.read()


def is_detached(pid: int) -> bool:
    """Return True if the process's environment says that it must not be killed."""
    if DETACH_VARIABLE in os.environ:
        # The variable is inherited from the parent's own environment, so it says nothing about this process.
        return False
    try:
        return f"{DETACH_VARIABLE}=1".encode() in _environment(str(pid)).split(b"\0")
    except OSError:
        return False


def members(sessions: Iterable[int], marker: bytes) -> list[int]:
    """Return this user's processes that are in one of `sessions`, or whose environment holds `marker` (Linux)."""
    wanted = set(sessions)
    found: list[int] = []
    own = os.getpid()
    try:
        names = os.listdir("/proc")
    except OSError:
        return found
    for name in names:
        if not name.isdigit() or int(name) == own:
            continue
        try:
            if os.getsid(int(name)) in wanted:
                # A zombie does not count.
                if not _has_ended(name):
                    found.append(int(name))
                continue
            if marker in _environment(name).split(b"\0") and not is_detached(int(name)):
                found.append(int(name))
        except OSError:
            continue
    return found


def kill_members(sessions: Collection[int], marker: bytes) -> None:
    """Send SIGKILL to the `members` of these sessions until there are none."""
    for _ in range(SWEEPS):
        left = members(sessions, marker)
        if not left:
            return
        for pid in left:
            kill(pid)
