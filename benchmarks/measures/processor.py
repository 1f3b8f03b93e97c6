"""CPU time and context switches of no-op calls, by thread of the parent and by process."""

from __future__ import annotations

import os
import re
import threading
from collections import defaultdict
from pathlib import Path

from benchmarks.adapters import Adapter
from benchmarks.measures.effort import Effort, Figures
from benchmarks.payloads import nothing

PROC = Path("/proc")
Use = dict[tuple[int, int], tuple[str, float, int]]
"""By process and thread: the name under which threads are added up, CPU seconds, context switches."""


def processor(pool: Adapter, effort: Effort) -> Figures:
    """Measure CPU seconds and context switches for each of many no-op calls."""
    calls = effort.count(20_000, pool.speed)
    before = use()
    for result in [pool.submit(nothing) for _ in range(calls)]:
        result()
    seconds: dict[str, float] = defaultdict(float)
    switches = 0
    for thread, (name, spent, switched) in use().items():
        _, spent_before, switched_before = before.get(thread, ("", 0.0, 0))
        seconds[name] += (spent - spent_before) / calls
        switches += switched - switched_before
    return {
        "processor_time": sum(seconds.values()),
        "context_switches": switches / calls,
        "by_thread": {name: spent for name, spent in sorted(seconds.items()) if spent > 0.2e-6},
    }


def use() -> Use:
    """Return what all threads of this process and of its descendants have used."""
    parents = {pid: parent for pid in _numbers(PROC) if (parent := _parent(pid))}
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    between = {parents[pid] for pid in ours if pid in parents}
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    used: Use = {}
    for pid in ours:
        for thread in _numbers(PROC / str(pid) / "task"):
            if pid == os.getpid():
                name = f"parent, {thread_name(names.get(thread, 'other threads'))}"
            else:
                name = "processes between" if pid in between else "processes that run calls"
            if (spent := _spent(PROC / str(pid) / "task" / str(thread))) is not None:
                used[pid, thread] = (name, *spent)
    return used


def thread_name(name: str) -> str:
    """Return a name without its number."""
    return re.sub(r"[-_ ]?\d+( \(.*\))?$", "", name)


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    except OSError:  # it has ended
        return []


def _parent(pid: int) -> int:
    try:
        return int((PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def _spent(thread: Path) -> tuple[float, int] | None:
    try:
        seconds = int((thread / "schedstat").read_text().split()[0]) / 1e9
        status = (thread / "status").read_text()
    except OSError:
        return None
    return seconds, sum(int(number) for number in re.findall(r"ctxt_switches:\s+(\d+)", status))
