"""Each event has its row in the table of transitions: an event without one would break the pool."""

from __future__ import annotations

from typing import get_args

from dragonfly_executor.core import events
from dragonfly_executor.core.transitions import RECORD


def test_each_event_has_a_transition() -> None:
    assert set(get_args(events.Event)) == set(RECORD)
