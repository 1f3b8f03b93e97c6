"""Each event has its transition, each action its handler, and each counter its field in the statistics."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any, cast

import pytest

from dragonfly_executor.core import actions, events
from dragonfly_executor.core.counters import Counters
from dragonfly_executor.core.machine import Machine, PoolLimits
from dragonfly_executor.core.record import Record
from dragonfly_executor.core.stats import PoolStats
from dragonfly_executor.core.transitions import TRANSITIONS
from dragonfly_executor.engine.action_runner import ActionRunner
from tests.support.world import CARRY_OUT


def test_each_event_has_a_transition() -> None:
    """One without it would break the pool."""
    assert set(events.Event.__subclasses__()) == set(TRANSITIONS)


def test_each_action_has_a_handler() -> None:
    nothing = cast("Any", None)
    handled = ActionRunner(nothing, nothing, nothing, nothing, syncs=False).do
    # The engine settles calls last, after all other actions of an event.
    assert {*handled, actions.Settle} == set(actions.Action.__subclasses__()) == set(CARRY_OUT)


@pytest.mark.parametrize("kind", [*events.Event.__subclasses__(), *actions.Action.__subclasses__()])
def test_each_value_of_a_record_is_shown_and_compared(kind: type[Record]) -> None:
    assert kind.__match_args__ == kind.__slots__


def test_each_counter_is_a_statistic() -> None:
    counts = vars(Counters())
    assert all(count == 0 for count in counts.values())
    assert counts.keys() <= {field.name for field in fields(PoolStats)}


@pytest.mark.parametrize("name", vars(Counters()))
def test_each_counter_is_carried_over(name: str) -> None:
    machine = Machine(PoolLimits())
    setattr(machine.pool.counters, name, 7)
    assert getattr(machine.stats(0.0), name) == 7


def test_each_statistic_is_explained() -> None:
    # From Python 3.13 on, docstrings come without their indentation.
    told = re.findall(r"^    ([a-z_, ]+): ", inspect.getdoc(PoolStats) or "", re.MULTILINE)
    assert {name for names in told for name in names.split(", ")} == {field.name for field in fields(PoolStats)}
