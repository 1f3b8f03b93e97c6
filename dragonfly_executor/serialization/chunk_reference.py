"""Encodes the chunks of a map whose function travels by its name: the references in them are pickled once."""

from __future__ import annotations

from dragonfly_executor.serialization.formats import MARK
from dragonfly_executor.serialization.function_reference import LONGEST_FRAME, FunctionReference, unframed
from dragonfly_executor.serialization.layout import MAIN_CALL
from dragonfly_executor.serialization.rebuild import main_attribute
from dragonfly_executor.serialization.small_values import are_small_items
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_OPEN = b"("
"""Pickle's opcode for the beginning of a tuple of any length."""
_END = b"t}\x87."
"""The end of a pickle: that tuple, an empty dict, the tuple of three, and STOP."""
_TUPLE_END = 3
"""Bytes at the end of the pickle of a tuple of two or three: the tuple, noted in the memo, and STOP."""
_CALLED = b"\x85R"
"""Pickle's opcodes that make a tuple of the topmost object, and call the function below it."""


class ChunkReference:
    """The encoder of calls ``run(fn, columns, ...)``, where `run` and `fn` travel by their names.

    Args:
        run: runs a chunk: `map_chunk.run_chunk` or `map_chunk.run_items`.
        fn: the map's function.

    Attributes:
        function: the reference to `fn`.
    """

    def __init__(self, run: Callable[..., object], fn: Callable[..., object]) -> None:
        self.function = FunctionReference(fn)
        begin, inner = FunctionReference(run).beginning, self.function.beginning
        if inner and self.function.roots:
            # The slot imports the script first, then opens the pickle.
            begin = bytes([MAIN_CALL]) + begin
            inner = unframed(FunctionReference(main_attribute).beginning) + unframed(inner[1:]) + _CALLED
        elif inner:
            inner = unframed(inner)
        self._beginning = begin + _OPEN + inner if begin and inner else b""

    def encode(self, args: tuple[Any, ...]) -> bytes | None:
        """Return a chunk as a plain pickle; None if the items, or the function, do not travel that way.

        Args:
            args: the function, the columns, and one or two numbers.
        """
        try:
            if not self._beginning or not all(map(are_small_items, args[1])):
                return None
            written = pickle.dumps(args[1:], 5)
        except (MemoryError, RuntimeError):
            # There is no memory, or a thread changes an item: the longer way says which item it is.
            return None
        if len(written) > LONGEST_FRAME:
            return None
        data = b"".join((self._beginning, unframed(written)[:-_TUPLE_END], _END))
        return None if MARK in data else data
