"""Waiting for a state of a machine (reference 1.2, 2)."""

from __future__ import annotations

import asyncio

from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Call
from tests.support.fly_simulator.state import PERSISTENT, Machine

WAITED_FOR = frozenset({"started", "stopped", "suspended", "destroyed", "failed", "settled"})


class StateWait:
    """Whether a machine is in one of the states that somebody waits for.

    Attributes:
        state: which, or the error that the wait ends with.
    """

    def __init__(self, machine: Machine, wanted: frozenset[str], from_event: str | None, stopped_is_404: bool) -> None:
        self.state: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._machine = machine
        self._wanted = wanted | (PERSISTENT if "settled" in wanted else frozenset())
        self._from_event = from_event
        self._stopped_is_404 = stopped_is_404 and bool(machine.config.get("auto_destroy"))

    def look(self, machine: Machine) -> None:
        """Called with whatever machine has changed."""
        if machine is not self._machine or self.state.done():
            return
        ends = {"stopped", "destroying", "destroyed"}
        if self._stopped_is_404 and "stopped" in self._wanted and machine.state in ends:
            if "destroyed" not in self._wanted:
                self.state.set_exception(errors.no_machine())
                return
            if machine.state == "stopped":
                return
        # A state that can never come is waited for like any other.
        if machine.state in self._wanted and self._is_new():
            self.state.set_result(machine.state)

    def _is_new(self) -> bool:
        if self._from_event is None:
            return True
        return any(event.id > self._from_event for event in self._machine.events)


def wait_timeout(call: Call) -> int:
    """The seconds that a request wants to wait."""
    text = call.first("timeout", "60") or ""
    if not text.isdigit() or not 1 <= int(text) <= 60:
        raise errors.wait_timeout_out_of_range()
    return int(text)
