"""The figures of docs/scaling.md: ``python -m tests.simulation`` prints them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from dragonfly_executor.simulation.figures import Figures
from dragonfly_executor.simulation.settings import Setting
from dragonfly_executor.simulation.simulator import SimulatedNodes, simulate
from tests.support.loads import LOADS, load
from tests.support.peers import PEERS, simulate_peer

BOOT, MOST = 15.0, 1000
SLOTS = (1, 4)
FAST, SPREAD, THRIFTY = Setting("pack"), Setting("spread"), Setting("pack", None, 0, "thrifty")
OURS = {"fast, spread": SPREAD, "fast, pack": FAST, "thrifty, pack": THRIFTY}
OTHERS = ("Dask", "Ray", "KEDA")
ADVICE = (
    ("steady", 4, (THRIFTY, Setting("pack", None, 2, "thrifty"), FAST, Setting("pack", None, 2))),
    ("sparse", 1, (THRIFTY, Setting("pack", None, 1, "thrifty"), FAST, Setting("pack", None, 1))),
    ("sparse", 4, (THRIFTY, Setting("pack", None, 1, "thrifty"))),
    ("cron", 4, (THRIFTY, FAST, Setting("pack", 15.0), Setting("pack", 330.0))),
    ("diurnal", 1, (Setting("pack", 7.5), Setting("pack", 15.0), Setting("pack", 30.0), Setting("pack", 150.0))),
    ("on_and_off", 1, (Setting("pack", 7.5), Setting("pack", 15.0), Setting("pack", 30.0), Setting("pack", 150.0))),
)
"""The loads and the settings behind the advice on `min`, on idle times and on calls that come every few minutes."""
BY_MINUTE = (("cron", 4), ("steady", 4))
"""The loads that are billed by the minute, with an idle time of one boot and of two."""


@cache
def ours(name: str, slots: int, setting: Setting, billing: float = 0.0) -> Figures:
    """Return the figures of a pool of ours on a load."""
    return simulate(load(name), setting.limits(MOST, slots), SimulatedNodes(BOOT, slots, billing))


@cache
def theirs(name: str, slots: int, peer: str) -> Figures:
    """Return the figures of another system's rule on a load."""
    return simulate_peer(load(name), PEERS[peer](), SimulatedNodes(BOOT, slots), MOST)


def tables() -> Iterator[str]:
    """Yield the lines of the tables, as Markdown."""
    for slots in SLOTS:
        yield f"\n{slots} slot(s) on a runner\n"
        yield f"| load | work | {' | '.join((*OURS, *OTHERS))} |"
        yield f"|---|---|{'---|' * (len(OURS) + len(OTHERS))}"
        for name in LOADS:
            work = sum(call.seconds for call in load(name)) / slots
            runs = [ours(name, slots, setting) for setting in OURS.values()]
            runs += [theirs(name, slots, peer) for peer in OTHERS]
            cells = [f"{run.p99:.1f} s, {run.machine_seconds / 1000:.1f}" for run in runs]
            yield f"| {name} | {work / 1000:.1f} | {' | '.join(cells)} |"


def beside_dask(seed: str) -> Iterator[str]:
    """Yield a line for each load with another seed, as Markdown: a thrifty pool beside Dask's rule."""
    yield f"\nseed {seed!r}\n"
    yield "| load | slots | thrifty | Dask | wait, of Dask's | machine time, of Dask's | boots | boots without a call |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in LOADS:
        calls = load(name, seed)
        for slots in SLOTS:
            nodes = SimulatedNodes(BOOT, slots)
            got, dask = (
                simulate(calls, THRIFTY.limits(MOST, slots), nodes),
                simulate_peer(calls, PEERS["Dask"](), nodes),
            )
            yield (
                f"| {name} | {slots} | {got.p99:.1f} s, {got.machine_seconds:.0f} | {dask.p99:.1f} s, "
                f"{dask.machine_seconds:.0f} | {got.p99 / dask.p99:.2f} "
                f"| {got.machine_seconds / dask.machine_seconds:.2f} | {got.boots} | {got.unused_boots} |"
            )


def advice() -> Iterator[str]:
    """Yield the lines of the figures behind the advice, as Markdown."""
    yield "\n| load | slots | setting | p50 | p99 | machine-seconds | boots | boots without a call |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, slots, settings in ADVICE:
        for setting in settings:
            got = ours(name, slots, setting)
            yield (
                f"| {name} | {slots} | `{setting}` | {got.p50:.1f} s | {got.p99:.1f} s | {got.machine_seconds:.0f} "
                f"| {got.boots} | {got.unused_boots} |"
            )
    yield "\n| load | slots | setting | billed seconds, by the minute |"
    yield "|---|---|---|---|"
    for name, slots in BY_MINUTE:
        for idle in (BOOT, 2 * BOOT):
            setting = Setting("pack", idle)
            yield f"| {name} | {slots} | `{setting}` | {ours(name, slots, setting, 60.0).billed_seconds:.0f} |"
