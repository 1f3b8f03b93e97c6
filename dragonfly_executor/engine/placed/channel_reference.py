"""`ChannelReference`: stands for a worker's channel in the arguments of its call."""

from __future__ import annotations

from dragonfly_executor.serialization.placed_run import open_channel
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class ChannelReference:
    """Becomes the slot's end of the worker's messages when the call is opened.

    Args:
        number: the number of the parent's side.
    """

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> Any:
        return open_channel, (self._number,)
