"""Boots one runner, as a program does, and reports a finding for each step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple

from dragonfly_executor import errors
from dragonfly_executor.api.executor import DragonflyExecutor
from dragonfly_executor.backends.base import Backend
from dragonfly_executor.cli.doctor import advice, probe

ROUND_TRIPS = 50
PARCEL = 8 * 1024 * 1024
"""Bytes that are sent in each direction to measure the bandwidth."""
TIMEOUT = 60.0
"""Seconds for one call on a runner that is up."""


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        name: the name of the check.
        ok: True if it passed, False if it failed, None if it was not reached because an earlier check failed.
        text: the result in words.
        advice: the remedy if it failed.
        figures: measured values by name, in seconds, bytes, and bytes per second.
    """

    name: str
    ok: bool | None
    text: str
    advice: str = ""
    figures: Mapping[str, float] = MappingProxyType({})


def examine(
    backend: Backend,
    *,
    boot_timeout: float | None = None,
    advise: Callable[[errors.BootError], str] = advice.for_boot,
) -> Iterator[Finding]:
    """Boot one runner, examine its node, measure the link, and stop the runner.

    Args:
        backend: the backend. If it supports several hosts, it has one.
        boot_timeout: seconds; None for the backend's own.
        advise: returns advice on a failed boot.

    Yields:
        A finding for each phase of the boot, and for each check after it.
    """
    heard: SimpleQueue[Mapping[str, Any]] = SimpleQueue()

    def hear(event: Mapping[str, Any]) -> None:
        """Keep an event. Tell at once that the boot waits in a queue, because that may take hours."""
        if event["event"] == "queued":
            sys.stderr.write(f"{event['text']}\n")
        heard.put(event)

    options: dict[str, Any] = {} if boot_timeout is None else {"boot_timeout": boot_timeout}
    with DragonflyExecutor(backend=backend, max=1, max_boot_failures=1, on_event=hear, **options) as executor:
        began = time.monotonic()
        try:
            sight = executor.submit(probe.look).result()
        except errors.BootError as error:
            yield from _phases(backend, error, advise)
        except errors.DragonflyError as error:
            yield from _phases(backend, None, advise)
            yield Finding("call", False, _line(error), advice.for_call(error))
        else:
            seconds = time.monotonic() - began
            yield from _phases(backend, None, advise, _facts(heard))
            yield from _node(sight, seconds)
            yield from _way(executor)


def _facts(heard: SimpleQueue[Mapping[str, Any]]) -> Mapping[str, str]:
    """Return the backend's facts about the node that is up."""
    while (event := heard.get(timeout=TIMEOUT))["event"] != "up":
        continue
    facts: Mapping[str, str] = event["node"]
    return facts


def _phases(
    backend: Backend,
    error: errors.BootError | None,
    advise: Callable[[errors.BootError], str],
    facts: Mapping[str, str] | None = None,
) -> Iterator[Finding]:
    """Yield a finding for each phase. The phases before the failed one have passed."""
    failed = False
    for phase in backend.phases:
        if failed:
            yield Finding(phase, None, "not reached")
        elif error is not None and (error.phase == phase or error.phase not in backend.phases):
            failed = True
            yield Finding(error.phase, False, _line(error), advise(error))
        else:
            yield Finding(phase, True, (facts or {}).get(phase, ""))


def _node(sight: probe.NodeReport, seconds: float) -> Iterator[Finding]:
    yield Finding(
        "first result", True, f"{seconds:.2f} s after the pool was asked, boot included", figures={"seconds": seconds}
    )
    yield Finding("node", True, f"{sight['host']}, {sight['system']}, Python {sight['python']} ({sight['executable']})")
    memory = f"{_size(sight['memory'])} of memory, {_size(sight['memory_free'])} of it free"
    figures = {name: value for name, value in sight.items() if isinstance(value, int)}
    disk = f"{_size(sight['disk_free'])} free in {sight['scratch']}"
    yield Finding("resources", True, f"{sight['cpus']} CPUs; {memory}; {disk}", figures=figures)
    if sight["disk_free"] < advice.LITTLE_DISK:
        yield Finding("disk", False, disk, advice.FREE_DISK)


def _way(executor: DragonflyExecutor) -> Iterator[Finding]:
    """Measure the round-trip time and the bandwidth."""
    times = [_timed(executor, b"") for _ in range(ROUND_TRIPS)]
    yield Finding(
        "round trip", True, f"{median(times) * 1000:.2f} ms (median of {ROUND_TRIPS} calls)",
        figures={"seconds": median(times)},
    )  # fmt: skip
    parcel = bytes(PARCEL)
    _timed(executor, parcel)  # the first transfer grows windows and buffers
    seconds = _timed(executor, parcel)
    rate = 2 * PARCEL / seconds
    yield Finding(
        "bandwidth", True, f"{_size(int(rate))}/s ({_size(PARCEL)} there and back in {seconds:.2f} s)",
        figures={"bytes_per_second": rate},
    )  # fmt: skip


def _timed(executor: DragonflyExecutor, data: bytes) -> float:
    began = time.monotonic()
    executor.submit(probe.echo, data).result(TIMEOUT)
    return time.monotonic() - began


def _line(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, errors.BootError):
        # Leave out the parts that BootError adds: the phase is the finding's name, and there was one attempt.
        text = "\n".join(filter(None, (str(error.args[0]), error.output)))
    return f"{type(error).__name__}: {text}"


def _size(count: int | None) -> str:
    """Return a size in bytes as text with a unit."""
    if count is None:
        return "an unknown amount"
    size, units = float(count), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    while size >= 1024 and (larger := next(units, None)):
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
