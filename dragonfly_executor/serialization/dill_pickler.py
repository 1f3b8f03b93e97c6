"""dill for what pickle cannot do. Importing this imports dill."""

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
    """dill, but for functions and classes, which go the way they go with cloudpickle."""

    def homeless_function(self, function: FunctionType) -> Any:
        """As dill does it."""
        return NotImplemented


def loads(body: Received, buffers: list[Any]) -> Any:
    """What dill pickled."""
    # ignore: dill would look for the classes of objects in the module that was __main__ when dill was imported.
    unpickler = dill.Unpickler(io.BytesIO(body), buffers=buffers, ignore=True)
    unpickler._main = main_module()  # noqa: SLF001
    return unpickler.load()
