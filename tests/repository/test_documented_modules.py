"""Modules that the guides name are importable under those names, and hold the very objects of the package."""

from __future__ import annotations

from importlib import import_module

import pytest

import dragonfly_executor

NAMES = [
    ("dragonfly_executor.backends.base", "Backend", "dragonfly_executor.backends.base"),
    ("dragonfly_executor.backends.base", "BootRequest", "dragonfly_executor.backends.base"),
    ("dragonfly_executor.backends.base", "Node", "dragonfly_executor.backends.base"),
    ("dragonfly_executor.sync", "Sync", "dragonfly_executor.sync.options"),
    ("dragonfly_executor.parent", "Parent", "dragonfly_executor.protocol.parent"),
    ("dragonfly_executor.parent", "VARIABLE", "dragonfly_executor.protocol.parent"),
    ("dragonfly_executor.testing", "BackendContract", "dragonfly_executor.testing.contract"),
    ("dragonfly_executor.testing", "FakeBackend", "dragonfly_executor.testing.fake"),
    ("dragonfly_executor.testing", "VirtualClock", "dragonfly_executor.testing.clock"),
    ("dragonfly_executor.errors", "BootError", "dragonfly_executor.errors.broken"),
]


@pytest.mark.parametrize(("documented", "name", "place"), NAMES, ids=lambda value: value.rpartition(".")[2])
def test_a_documented_module_has_the_object_of_its_place(documented: str, name: str, place: str) -> None:
    found = getattr(import_module(documented), name)
    assert found is getattr(import_module(place), name)
    if name in dragonfly_executor.__all__:
        assert found is getattr(dragonfly_executor, name)


@pytest.mark.parametrize("name", [name for name in dragonfly_executor.__all__ if name[0].isupper()])
def test_a_public_class_says_a_module_that_has_it(name: str) -> None:
    """So its repr and its pickle lead back to it."""
    found = getattr(dragonfly_executor, name)
    assert getattr(import_module(found.__module__), found.__qualname__) is found
