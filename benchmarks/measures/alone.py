"""Measurements that start what they measure: cold starts, many slots, system calls."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.adapters import Adapter, NotMeasured
from benchmarks.measures.calls import warm_up
from benchmarks.measures.effort import QUICK, Effort, Figures, Setting
from benchmarks.payloads import nothing, rest
from benchmarks.subjects import ADAPTERS

# The main program of a measurement is `-c`. The executors' processes import a script again, and send its definitions,
# each in its own way.
IMPORT = "import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
COLD = (
    "import time; start = time.perf_counter(); {statement}; pool = {make}; "
    "assert {first} == 1; print('took', time.perf_counter() - start)"
)
SLOTS, RESTS, SECONDS = 100, 1_000, 0.010
TRACED = 2_000


def cold(setting: Setting) -> Figures:
    """Measure the seconds to import an executor, make a pool and get a first result. Short, so a median of three."""
    return {"cold": _in_new_programs(COLD, setting)}


def imported(setting: Setting) -> Figures:
    """Measure the seconds to import an executor."""
    return {"imported": _in_new_programs(IMPORT, setting)}


def _in_new_programs(script: str, setting: Setting) -> float:
    kind = ADAPTERS[setting.subject]
    if not kind.statement:
        raise NotMeasured("it is no library")
    text = script.format(statement=kind.statement, make=kind.make.format(workers=setting.workers), first=kind.first)
    times = []
    for _ in range(3 if setting.effort.share == 1 and not kind.starts_slowly else 1):
        done = subprocess.run([sys.executable, "-P", "-c", text], stdout=subprocess.PIPE, text=True, check=True)
        times.append(float(done.stdout.split()[-1]))
    return median(times)


def empty_program(name: str, effort: Effort) -> Figures:
    """Measure the seconds of an interpreter that does nothing."""
    times = []
    for _ in range(effort.count(5)):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        times.append(time.perf_counter() - start)
    return {name: median(times)}


def slots(setting: Setting) -> Figures:
    """Measure the seconds of 1,000 calls of 10 ms on 100 slots: from cold (the library is imported), then again."""
    kind = ADAPTERS[setting.subject]
    if kind.starts_slowly:
        raise NotMeasured("100 processes take a minute to start")
    if setting.effort is QUICK:
        return dict(zip(("slots_cold", "slots_warm"), rests(kind, 4, 40), strict=True))
    return dict(zip(("slots_cold", "slots_warm"), rests(kind, SLOTS, RESTS), strict=True))


def rests(kind: type[Adapter], slots: int, calls: int) -> tuple[float, float]:
    """Return the seconds of short sleeps from cold, and again."""
    start = time.perf_counter()
    pool = kind(slots)
    times = []
    for _ in range(2):
        for result in [pool.submit(rest, SECONDS) for _ in range(calls)]:
            result()
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    pool.close()
    return times[0], times[1]


def system_calls(setting: Setting) -> Figures:
    """Count system calls of all processes for a no-op call: those of a run with calls less those of one without.

    strace slows each system call down, so fewer small frames travel together than usual.
    """
    if shutil.which("strace") is None:
        raise NotMeasured("strace is not installed")
    if ADAPTERS[setting.subject].starts_slowly:
        raise NotMeasured("its processes take long to start under strace")
    calls = setting.effort.count(TRACED)
    return {"system_calls": (_traced(setting, calls) - _traced(setting, 0)) / calls}


def _traced(setting: Setting, calls: int) -> int:
    """Return the system calls of a program that starts a pool and makes this number of calls."""
    text = f"from benchmarks.measures.alone import play; play({setting.subject!r}, {setting.workers}, {calls})"
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder, "counts")
        command = ["strace", "-f", "-c", "-q", "-o", str(counts), sys.executable, "-P", "-c", text]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
        return total_calls(counts.read_text())


def total_calls(table: str) -> int:
    """Return the number of calls in the last line of strace's table."""
    total = next(line for line in table.splitlines() if line.endswith(" total"))
    return int(total.split()[3])


def play(subject: str, workers: int, calls: int) -> None:
    """Make calls, for strace."""
    pool = ADAPTERS[subject](workers)
    warm_up(pool, QUICK)
    for result in [pool.submit(nothing) for _ in range(calls)]:
        result()
    pool.close()


MEASURES: dict[str, Callable[[Setting], Figures]] = {
    "cold": cold,
    "imported": imported,
    "slots": slots,
    "system_calls": system_calls,
}
