"""Unpicklers of calls that use shared objects."""

from __future__ import annotations

from dragonfly_executor.serialization.rebuild import shared_object
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.serialization.large_unpickler import PayloadFile

SHARED_MODULE = shared_object.__module__


class FindsShared:
    """An unpickler mixin that opens references to shared objects."""

    shared: Callable[[int], Any]

    def find_class(self, module_name: str, name: str, /) -> Any:
        """Return a global of the pickle. The unpickler calls this."""
        if name == "shared_object" and module_name == SHARED_MODULE:
            return self.shared
        return super().find_class(module_name, name)  # type: ignore[misc]


class SharedUnpickler(FindsShared, pickle.Unpickler):
    """The unpickler of calls that use shared objects.

    Args:
        file: the pickle.
        buffers: its out-of-band buffers.
        shared: returns a shared object by its number.
    """

    def __init__(self, file: PayloadFile, buffers: list[Any], shared: Callable[[int], Any]) -> None:
        super().__init__(file, buffers=buffers)
        self.shared = shared
