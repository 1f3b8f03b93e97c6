"""What a machine's life is told in."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.fly_simulator.uncertain import Switches


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a machine's history (reference 2). `at` is in seconds since the epoch."""

    id: str
    type: str
    status: str
    source: str
    at: float
    request: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How a machine's process ended."""

    code: int
    signal: int = -1
    oom: bool = False
    requested_stop: bool = False
    restarting: bool = False


@dataclass(slots=True)
class Lease:
    """Who alone may change a machine, until when."""

    nonce: str
    owner: str
    description: str
    expires_at: float


def rfc3339(at: float) -> str:
    """A moment as the API writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def exit_request(ended: Exit, starts: int, now: float, switches: Switches) -> Mapping[str, Any]:
    """The `request` of an exit event."""
    event: dict[str, Any] = {
        "exit_code": ended.code,
        "guest_exit_code": 0,
        "guest_signal": -1,
        "signal": ended.signal,
        "oom_killed": ended.oom,
        "requested_stop": ended.requested_stop,
        "restarting": ended.restarting,
        "exited_at": rfc3339(now) if switches.exited_at_is_text else int(now * 1000),
    }
    if switches.exit_event_omits_zero:
        event = {key: value for key, value in event.items() if value}
    if switches.exit_event_nested:
        return {"MonitorEvent": {"exit_event": event}}
    return {"exit_event": event, "restart_count": max(0, starts - 1)}
