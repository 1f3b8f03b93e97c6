"""A simulator of cgroups of version 2, with the memory controller: no machine of the tests has one.

It is held to the kernel's document (Documentation/admin-guide/cgroup-v2.rst; the sections are named below): which
writes the kernel takes or refuses, with which error, and what the OOM killer does. It stands in the place of
`runner.cgroup_files.CgroupFiles`. Processes are numbers; `charge` plays the memory that they use.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field


@dataclass
class Group:
    """A cgroup."""

    parent: Group | None
    procs: list[int] = field(default_factory=list)
    children: dict[str, Group] = field(default_factory=dict)
    enabled: set[str] = field(default_factory=set)
    """Controllers in ``cgroup.subtree_control``."""
    limit: int | None = None
    swap: str = "max"
    kills_all: bool = False
    anon: int = 0
    """Bytes that the processes use, charged here."""
    cache: int = 0
    """Bytes of pages of files, which can be dropped."""
    events: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("low", "high", "max", "oom", "oom_kill", "oom_group_kill"), 0)
    )
    may_write: bool = True

    def below(self) -> list[Group]:
        """Return this cgroup and all in it."""
        return [self, *(one for child in self.children.values() for one in child.below())]

    def usage(self) -> int:
        """Return ``memory.current``: that of descendants counts."""
        return sum(one.anon + one.cache for one in self.below())


class SimulatedCgroups:
    """A tree of cgroups, as one process sees it.

    Args:
        own: the path of the cgroup in which the process is.
        pid: the process.
        controllers: the controllers that the cgroups above pass on to all of this tree.
        is_delegated: see `CgroupFiles.is_delegated`.

    Attributes:
        root: the top of the tree.
        killed: processes that the OOM killer has killed.
        orders: all writes, for tests that look at their order.
    """

    def __init__(self, own: str, pid: int, controllers: str = "cpu memory pids", *, is_delegated: bool = True) -> None:
        self.root = Group(None)
        self.pid = pid
        self._controllers = controllers.split()
        self._is_delegated = is_delegated
        self.killed: list[int] = []
        self.orders: list[tuple[str, str, str]] = []
        self.group(own, make=True).procs.append(pid)

    # -- what a test does ----------------------------------------------------------------------------------------------

    def group(self, path: str, *, make: bool = False) -> Group:
        """Return a cgroup; ENOENT if there is none."""
        found = self.root
        for name in path.strip("/").split("/"):
            if not name:
                continue
            if name not in found.children:
                if not make:
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                # The cgroups above have passed their controllers on.
                found.enabled |= set(self._controllers)
                found.children[name] = Group(found)
            found = found.children[name]
        return found

    def where(self, pid: int) -> str:
        """Return the path of a process's cgroup."""
        waiting = [("/", self.root)]
        while waiting:
            path, group = waiting.pop()
            if pid in group.procs:
                return path
            waiting += [(f"{path.rstrip('/')}/{name}", child) for name, child in group.children.items()]
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))

    def start(self, pid: int, parent: int) -> None:
        """A process forks: its child is in the same cgroup."""
        self.group(self.where(parent)).procs.append(pid)

    def end(self, pid: int) -> None:
        """A process ends: its memory is free."""
        group = self.group(self.where(pid))
        group.procs.remove(pid)
        if not group.procs:
            group.anon = 0

    def charge(self, pid: int, size: int, *, cache: bool = False) -> None:
        """A process uses more memory. "Memory Ownership": it is charged to the cgroup in which the process is now."""
        group = self.group(self.where(pid))
        if cache:
            group.cache += size
        else:
            group.anon += size
        for limited in self._line(group):
            self._hold(limited)

    def _hold(self, group: Group) -> None:
        """``memory.max``: "If a cgroup's memory usage reaches this limit and can't be reduced, the OOM killer is
        invoked in the cgroup."
        """
        if group.limit is None or group.usage() <= group.limit:
            return
        for event in self._line(group):
            event.events["max"] += 1
        for one in group.below():
            dropped = min(one.cache, max(0, group.usage() - group.limit))
            one.cache -= dropped
        while group.usage() > group.limit and any(one.procs for one in group.below()):
            for event in self._line(group):
                event.events["oom"] += 1
            self._kill_in(group)

    def _kill_in(self, group: Group) -> None:
        """``memory.oom.group``: the topmost cgroup with it, from the victim up to the one that has run out."""
        victim = max((one for one in group.below() if one.procs), key=lambda one: one.anon)
        line = [one for one in self._line(victim) if one in group.below()]
        whole = [one for one in line if one.kills_all]
        doomed = [pid for one in whole[-1].below() for pid in one.procs] if whole else [victim.procs[-1]]
        for pid in doomed:
            one = self.group(self.where(pid))
            # "memory.events": these counters are hierarchical.
            for event in self._line(one):
                event.events["oom_kill"] += 1
            self.killed.append(pid)
            self.end(pid)
        if whole:
            for event in self._line(whole[-1]):
                event.events["oom_group_kill"] += 1

    def _line(self, group: Group | None) -> list[Group]:
        found = []
        while group is not None:
            found.append(group)
            group = group.parent
        return found

    # -- the files -----------------------------------------------------------------------------------------------------

    def own(self) -> str | None:
        return self.where(self.pid)

    def _controllers_of(self, group: Group) -> list[str]:
        """ "Enabling and Disabling": a cgroup has the controllers that its parent passes on."""
        return self._controllers if group.parent is None else sorted(group.parent.enabled)

    def _files(self, group: Group) -> set[str]:
        found = {"cgroup.procs", "cgroup.controllers", "cgroup.subtree_control", "cgroup.events"}
        if group.parent is not None:
            found.add("cgroup.type")
            if "memory" in group.parent.enabled:
                found |= {f"memory.{name}" for name in ("max", "swap.max", "oom.group", "current", "stat", "events")}
        return found

    def has(self, path: str, file: str) -> bool:
        try:
            return file in self._files(self.group(path))
        except OSError:
            return False

    def read(self, path: str, file: str) -> str:
        if not self.has(path, file):
            return ""
        group = self.group(path)
        return {
            "cgroup.procs": "".join(f"{pid}\n" for pid in group.procs),
            "cgroup.controllers": " ".join(self._controllers_of(group)) + "\n",
            "cgroup.subtree_control": " ".join(sorted(group.enabled)) + "\n",
            "cgroup.type": "domain\n",
            "cgroup.events": f"populated {int(any(one.procs for one in group.below()))}\nfrozen 0\n",
            "memory.max": f"{'max' if group.limit is None else group.limit}\n",
            "memory.swap.max": f"{group.swap}\n",
            "memory.oom.group": f"{int(group.kills_all)}\n",
            "memory.current": f"{group.usage()}\n",
            "memory.stat": f"anon {group.anon}\nfile {group.cache}\ninactive_file {group.cache}\nactive_file 0\n",
            "memory.events": "".join(f"{name} {count}\n" for name, count in group.events.items()),
        }[file]

    def write(self, path: str, file: str, text: str) -> None:
        group = self.group(path)
        self.orders.append((path, file, text))
        if file not in self._files(group):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), file)
        if not group.may_write:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), file)
        if file == "cgroup.procs":
            self._move(int(text), group)
        elif file == "cgroup.subtree_control":
            self._enable(group, text)
        elif file == "memory.max":
            group.limit = _number(text)
            self._hold(group)
        elif file == "memory.swap.max":
            group.swap = text
        elif file == "memory.oom.group":
            group.kills_all = text == "1"
        else:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), file)

    def _move(self, pid: int, target: Group) -> None:
        source = self.group(self.where(pid))
        # "No Internal Process Constraint": the root is exempt. "Delegation Containment": the common ancestor counts.
        if target.enabled and target.parent is not None:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        common = next(one for one in self._line(source) if one in self._line(target))
        if not common.may_write:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        source.procs.remove(pid)
        target.procs.append(pid)

    def _enable(self, group: Group, text: str) -> None:
        sign, name = text[0], text[1:]
        if sign == "+":
            if name not in self._controllers_of(group):
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            if group.procs and group.parent is not None:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            group.enabled.add(name)
        else:
            # "Top-down Constraint": a controller can't be disabled while a child has it enabled.
            if any(name in child.enabled for child in group.children.values()):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            group.enabled.discard(name)

    def make(self, path: str) -> None:
        above, _, name = path.rstrip("/").rpartition("/")
        parent = self.group(above)
        if name in parent.children:
            return
        if not parent.may_write:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        parent.children[name] = Group(parent)

    def remove(self, path: str) -> None:
        group = self.group(path)
        if group.parent is None or group.children or group.procs:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        del group.parent.children[path.rstrip("/").rpartition("/")[2]]

    def children(self, path: str) -> list[str]:
        try:
            return list(self.group(path).children)
        except OSError:
            return []

    def is_writable(self, path: str) -> bool:
        return self.group(path).may_write

    def is_delegated(self, path: str) -> bool:
        return self._is_delegated

    def wait_until_empty(self, path: str, timeout: float) -> None:
        """Nothing happens meanwhile."""


def _number(text: str) -> int | None:
    if text == "max":
        return None
    if not text.isdecimal():
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), text)
    return int(text)
