"""The cgroups of a runner that limit the memory of calls (Linux, version 2).

A cgroup that passes controllers on to others must not have processes itself. So the agent makes two sorts of cgroups
in its own one: ``dragonfly-PID.agent`` for itself and all others, and ``dragonfly-PID.slot-PID`` for each slot that
runs calls which require memory. It does so when the first such call comes, and only if all processes in its cgroup
belong to the runner. The slot does the rest: see `runner/slot_cgroup.py`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection

from dragonfly_executor.runner.cgroup_files import CgroupFiles
from dragonfly_executor.runner.oom_kills import oom_kills
from dragonfly_executor.runner.process_tree import descendants
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

PREFIX: Final = "dragonfly-"
AGENT: Final = ".agent"
SLOT: Final = ".slot-"
ROUNDS: Final = 10
"""Attempts to move all processes: they may fork meanwhile."""
EMPTY_TIMEOUT: Final = 1.0
"""Seconds for all killed processes to leave their cgroups, when the agent ends."""


class MemoryCgroups:
    """The cgroups of a runner.

    Args:
        files: the files of cgroups.
        home: the path of the cgroup in which the others are.
        pid: the agent's process id.

    Attributes:
        leaf: the path of the agent's own cgroup.
    """

    def __init__(self, files: CgroupFiles, home: str, pid: int) -> None:
        self._files = files
        self._home = home
        self._pid = pid
        self.leaf = _join(home, f"{PREFIX}{pid}{AGENT}")

    def has_killed(self, slot: int) -> bool:
        """Return whether the kernel has killed the slot with this process id because its calls used too much memory."""
        return oom_kills(self._files.read(self._slot(slot), "memory.events")) > 0

    def slot_ended(self, slot: int) -> None:
        """Remove a slot's cgroup, if it has one and no process is left there."""
        _try_remove(self._files, self._slot(slot))

    def close(self) -> None:
        """Remove all cgroups that the kernel lets go. Call it when all slots were killed."""
        end = time.monotonic() + EMPTY_TIMEOUT
        for name in self._files.children(self._home):
            if name.startswith(f"{PREFIX}{self._pid}{SLOT}"):
                path = _join(self._home, name)
                self._files.wait_until_empty(path, max(0.0, end - time.monotonic()))
                _try_remove(self._files, path)
        try:
            self._files.write(self._home, "cgroup.subtree_control", "-memory")
        except OSError:
            return  # another runner has cgroups here
        _move(self._files, self.leaf, self._home)
        _try_remove(self._files, self.leaf)

    def _slot(self, slot: int) -> str:
        return _join(self._home, f"{PREFIX}{self._pid}{SLOT}{slot}")


def set_up(files: CgroupFiles, starters: int) -> MemoryCgroups | None:
    """Make the cgroups of this runner, and move its processes into one of them.

    Args:
        files: the files of cgroups.
        starters: number of ancestors, from the agent's parent upwards, that exist for this runner alone. They may be
            moved too.

    Returns:
        None if there is no such cgroup here. Then nothing is changed.
    """
    home, pid = _home(files), os.getpid()
    if home is None or not _is_usable(files, home):
        return None
    ours = {pid, *descendants(pid), *_ancestors(pid)[:starters]}
    # The kernel lets the root have processes beside its children. Others' processes stay there.
    is_root = not files.has(home, "cgroup.type")
    own = files.own() or home
    if not is_root and not (_pids(files, home) | _pids(files, own)) <= ours:
        return None
    groups = MemoryCgroups(files, home, pid)
    leaf = groups.leaf
    try:
        files.make(leaf)
        for _ in range(ROUNDS):
            for source in dict.fromkeys((home, own)):
                _move(files, source, leaf, ours if is_root else None)
            try:
                files.write(home, "cgroup.subtree_control", "+memory")
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            else:
                _remove_stale(files, home, pid)
                return groups
    except OSError:
        pass
    _move(files, leaf, home)
    _try_remove(files, leaf)
    return None


def _home(files: CgroupFiles) -> str | None:
    """Return the cgroup in which the runner's cgroups are made: its own, or the one that an earlier runner has used."""
    own = files.own()
    if own is None:
        return None
    above, _, name = own.rpartition("/")
    return (above or "/") if name.startswith(PREFIX) and name.endswith(AGENT) and _is_stale(name) else own


def _is_usable(files: CgroupFiles, home: str) -> bool:
    kind = files.read(home, "cgroup.type").strip()
    return (
        "memory" in files.read(home, "cgroup.controllers").split()
        and kind in ("domain", "")
        and files.is_writable(home)
        and files.is_delegated(home)
    )


def _pids(files: CgroupFiles, path: str) -> set[int]:
    """Return the processes of a cgroup. 0 stands for one of another namespace."""
    return {int(word) for word in files.read(path, "cgroup.procs").split()}


def _ancestors(pid: int) -> list[int]:
    found: list[int] = []
    while pid > 1:
        try:
            with open(f"/proc/{pid}/stat", "rb") as status:
                pid = int(status.read().rpartition(b")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


def _move(files: CgroupFiles, source: str, target: str, which: Collection[int] | None = None) -> None:
    """Move the processes of a cgroup, or only those in `which`, into another one. Leave those that cannot be moved."""
    for pid in _pids(files, source):
        if which is None or pid in which:
            try:
                files.write(target, "cgroup.procs", str(pid))
            except OSError:
                continue  # it has ended, or the caller finds it still there


def _remove_stale(files: CgroupFiles, home: str, pid: int) -> None:
    """Remove the empty cgroups that runners which were killed have left here."""
    for name in files.children(home):
        if name.startswith(PREFIX) and (_is_stale(name) or name.startswith(f"{PREFIX}{pid}{SLOT}")):
            _try_remove(files, _join(home, name))


def _is_stale(name: str) -> bool:
    """Return whether the agent after which a cgroup is named is gone."""
    number = name.removeprefix(PREFIX).partition(".")[0]
    if not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _try_remove(files: CgroupFiles, path: str) -> None:
    try:
        files.remove(path)
    except OSError:
        return  # a process is in it


def _join(path: str, name: str) -> str:
    return f"{path.rstrip('/')}/{name}"
