"""Pickles with dill, where pickle is not enough. Importing this module imports dill."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import dill

from dragonfly_executor.serialization.cloudpickle_pickler import ByValue
from dragonfly_executor.serialization.rebuild import main_module, shared_object
from dragonfly_executor.serialization.shared_unpickler import FindsShared

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FunctionType

    from dragonfly_executor.serialization.layout import Received


class DillPickler(ByValue, dill.Pickler):  # type: ignore[misc]
    """The dill pickler, except for functions and classes, which travel as they do with cloudpickle."""

    def function_without_module(self, function: FunctionType) -> Any:
        """Leave the function to dill."""
        return NotImplemented


class DillUnpickler(FindsShared, dill.Unpickler):  # type: ignore[misc]
    """The dill unpickler, which also opens references to shared objects."""


def loads(body: Received, buffers: list[Any], shared: Callable[[int], Any] | None = None) -> Any:
    """Open a pickle made by dill. `shared` returns a shared object by its number."""
    # ignore=True, because dill looks up classes in the module that was __main__ when dill was imported.
    unpickler = DillUnpickler(io.BytesIO(body), buffers=buffers, ignore=True)
    unpickler.shared = shared or shared_object
    unpickler._main = main_module()  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]  # undeclared
    return unpickler.load()
