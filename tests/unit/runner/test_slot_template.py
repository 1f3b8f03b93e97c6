"""What all slots have in common is made in the agent, once, and runs nothing of the user's there."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType
from typing import Any

import pytest

from dragonfly_executor.protocol.frames import SETUP_HEAD, ScriptImport
from dragonfly_executor.runner.slot_template import SlotTemplate, SlotTemplates
from dragonfly_executor.serialization import CallCodec

ran: list[str] = []


def note(what: str) -> None:
    ran.append(what)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return note, ("code ran",)


def setup(codec: bytes | None = None, initializer: bytes = b"", max_payload: int = 10_000) -> bytes:
    codec = CallCodec().setup() if codec is None else codec
    return SETUP_HEAD.pack(max_payload, len(codec), ScriptImport.SKIP, 0) + codec + initializer


def test_a_template_has_the_parts_of_the_setup() -> None:
    template = SlotTemplate(setup(initializer=b"initializer"), None)
    assert template.max_payload == 10_000
    assert template.script == ScriptImport.SKIP
    assert template.initializer == b"initializer"
    assert template.loaded is not None


def test_one_template_serves_all_slots() -> None:
    templates, first = SlotTemplates(), setup()
    made = templates.get(first, None)
    assert made is not None
    assert templates.get(bytes(bytearray(first)), None) is made


def test_a_template_is_made_again_if_something_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    templates = SlotTemplates()
    made = [templates.get(setup(), None), templates.get(setup(max_payload=20_000), None)]
    # A module of the agent is none that a slot has loaded for a call.
    monkeypatch.setitem(sys.modules, "late_module_of_the_agent", ModuleType("late_module_of_the_agent"))
    made.append(templates.get(setup(max_payload=20_000), None))
    assert len({id(each) for each in made}) == 3
    assert all(made)
    assert made[2] is not None
    assert made[2].loaded is not None
    assert "late_module_of_the_agent" in made[2].loaded._seen


@pytest.mark.parametrize("codec", [b"", b"junk", b"\x80\x05N."])
def test_a_setup_that_cannot_be_opened_is_left_to_the_slot(codec: bytes) -> None:
    templates = SlotTemplates()
    assert templates.get(setup(codec), None) is None
    assert templates.get(setup(codec), None) is None
    assert templates.get(setup(), None) is not None


def test_a_setup_that_runs_code_is_left_to_the_slot() -> None:
    described = {**pickle.loads(CallCodec().setup()), "path": [Harmful()]}
    assert SlotTemplates().get(setup(pickle.dumps(described)), None) is None
    assert ran == []
    SlotTemplate(setup(pickle.dumps(described)), None)
    assert ran == ["code ran"]
