"""`ConstantMemory`: mapped bytes that never change, and the objects that were made of them."""

from __future__ import annotations

from mmap import mmap

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class ConstantMemory(mmap):
    """A read-only mapping of bytes that never change, of which each object is made once.

    Objects made of it live as long as the mapping.
    """

    made: dict[Callable[..., Any], Any] | None = None

    def once(self, make: Callable[[memoryview], Any], data: memoryview) -> Any:
        """Return the object that `make` makes of the data, which is all that is mapped. It is made the first time."""
        if self.made is None:
            self.made = {}
        if make not in self.made:
            self.made[make] = make(data)
        return self.made[make]
