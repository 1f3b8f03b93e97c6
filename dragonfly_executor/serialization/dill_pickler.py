"""Pickles with dill, where pickle is not enough. Importing this module imports dill."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import dill

from dragonfly_executor.serialization.cloudpickle_pickler import ByValue
from dragonfly_executor.serialization.rebuild import main_module

if TYPE_CHECKING:
    from types import FunctionType

    from dragonfly_executor.serialization.layout import Received


class DillPickler(ByValue, dill.Pickler):  # type: ignore[misc]
    """The dill pickler, except for functions and classes, which travel as they do with cloudpickle."""

    def function_without_module(self, function: FunctionType) -> Any:
        """Leave the function to dill."""
        return NotImplemented


def loads(body: Received, buffers: list[Any]) -> Any:
    """Open a pickle made by dill."""
    # ignore=True, because dill looks up classes in the module that was __main__ when dill was imported.
    unpickler = dill.Unpickler(io.BytesIO(body), buffers=buffers, ignore=True)
    unpickler._main = main_module()  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]  # undeclared
    return unpickler.load()
