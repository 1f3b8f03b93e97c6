"""`SlotYield`: ends slots of calls that share slots when other calls of the pool wait for a slot."""

from __future__ import annotations

from dragonfly_executor.core.events import RunnerLeaving
from dragonfly_executor.core.runner import UP
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.core.runner import Runner
    from dragonfly_executor.engine.task_slots.task_slot import TaskSlot
    from dragonfly_executor.transport.loop import Loop

    class YieldingPool(Protocol):
        """The calls that share slots, as this uses them."""

        @property
        def open_slots(self) -> Iterable[TaskSlot]: ...
        @property
        def loop(self) -> Loop: ...
        def handle(self, event: Any) -> None: ...


TURN = 1.0
"""Seconds for which a slot may take calls although other calls of the pool wait."""


class SlotYield:
    """Looks at the pool after each of its events. It belongs to the engine thread.

    A slot without calls ends at once. A slot that was there for a `TURN` takes no more calls, and ends with those that
    it has. So does a slot whose runner takes no more calls. The calls that are left wait for another slot, behind the
    other calls of the pool.

    Args:
        pool: the calls that share slots.
        waiting_slots: returns how many slots of all such calls wait themselves, and are calls of the pool meanwhile.
    """

    def __init__(self, pool: YieldingPool, waiting_slots: Callable[[], int]) -> None:
        self._pool = pool
        self._waiting_slots = waiting_slots
        self._is_armed = False

    def review(self, machine: Machine, *, is_open: bool) -> None:
        """See `CoreObserver`. `machine`: the pool's core."""
        table, runners = machine.pool.call_table, machine.pool.runner_table
        if runners.retiring or runners.retired or len(runners.runners) > runners.up + len(runners.booting):
            self._leave_with_runners(runners.runners)
        others = len(table.calls) - table.started - self._waiting_slots()
        if others <= 0 or runners.busy < runners.slots:
            return
        slots = list(self._pool.open_slots)
        others -= sum(slot.is_leaving for slot in slots)
        staying = sorted(
            (slot for slot in slots if not slot.is_leaving), key=lambda slot: (not slot.is_idle, slot.opened_at or 0.0)
        )
        now = self._pool.loop.time()
        for slot in staying[: max(0, others)]:
            ends = (slot.opened_at or 0.0) + TURN
            if not slot.is_idle and now < ends:
                self._look_again(machine, ends)
                return
            slot.is_leaving = True
            self._pool.handle(RunnerLeaving(slot.number))

    def _leave_with_runners(self, runners: Mapping[int, Runner]) -> None:
        """Have slots take no more calls whose runners take none: the pool shrinks, or their platform stops them."""
        for slot in list(self._pool.open_slots):
            runner = None if slot.runner_id is None else runners.get(slot.runner_id)
            if runner is not None and (runner.retiring or runner.state is not UP) and not slot.is_leaving:
                slot.is_leaving = True
                self._pool.handle(RunnerLeaving(slot.number))

    def _look_again(self, machine: Machine, when: float) -> None:
        if not self._is_armed:
            self._is_armed = True
            self._pool.loop.call_at(when, lambda: self._turn_is_over(machine))

    def _turn_is_over(self, machine: Machine) -> None:
        self._is_armed = False
        self.review(machine, is_open=True)
