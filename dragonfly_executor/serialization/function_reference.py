"""Encodes calls of one function: the reference to the function is pickled once."""

from __future__ import annotations

import sys

from dragonfly_executor.serialization.formats import MARK
from dragonfly_executor.serialization.layout import MAIN_CALL
from dragonfly_executor.serialization.main_pickler import MAIN_NAMES, name_in
from dragonfly_executor.serialization.rebuild import main_module
from dragonfly_executor.serialization.small_values import FIXED_ATOMS, are_small
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

# Opcodes of pickle's protocol 5, and the lengths of what precedes them.
_PROTOCOL = b"\x80\x05"
_FRAMED = len(_PROTOCOL) + 9
"""Bytes before the content of a pickle's only frame: the protocol, the opcode FRAME and its 8 bytes of length."""
LONGEST_FRAME = 64 * 1024 - 1
"""Maximum bytes of a pickle that is a single frame for sure."""
_REFERENCE = b"\x8c%c%s\x94\x8c%c%s\x94\x93\x94."
"""A reference to a global: two strings and STACK_GLOBAL, each of them noted in the memo, and STOP."""
_UNNOTED = b"\x80\x05\x8c%c%s\x8c%c%s\x93"
"""The beginning of a pickle: the same reference, noted nowhere, so that the numbers in the memo still begin at 0."""
_MAIN_UNNOTED = b"%c\x80\x05\x8c%c%s"
"""The beginning of a call of a function in ``__main__``: the byte for that, and a pickle that begins with a name."""
_NO_KEYWORDS = b"}\x87."
"""The end of a pickle: an empty dict, the tuple of three, and STOP."""
_PAIR = b"\x86\x94."
"""The end of the pickle of a tuple of two: that tuple, noted in the memo, and STOP."""
_KEYWORDS = b"\x87."
"""The end of a pickle: the tuple of three, and STOP."""
_FRAME = 0x95
"""The opcode FRAME. The shortest pickles have none."""
_LONGEST = 255


def unframed(data: bytes) -> bytes:
    """Return a pickle without its protocol, and without the opcode FRAME if it has one."""
    return data[_FRAMED if data[len(_PROTOCOL)] == _FRAME else len(_PROTOCOL) :]


class FunctionReference:
    """The encoder of calls of one function whose arguments refer to nothing.

    Attributes:
        fn: the function.
        home: the name of its module.
        beginning: the beginning of the pickle of each of its calls; b"" if the function does not travel by its name.
        roots: the top-level name of a function that ``__main__`` has; empty for all other functions.
    """

    __slots__ = ("_name", "beginning", "fn", "home", "roots")

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.home: str | None = getattr(fn, "__module__", None)
        self._name = getattr(fn, "__qualname__", "")
        self.roots: frozenset[str] = frozenset()
        if self.home not in MAIN_NAMES:
            self.beginning = _reference(fn)
            return
        self.beginning = b""
        name = name_in(main_module().__dict__, fn)
        if name is not None and len(written := name.encode()) <= _LONGEST:
            self.beginning = _MAIN_UNNOTED % (MAIN_CALL, len(written), written)
            self._name, self.roots = name, frozenset((name.partition(".")[0],))

    def is_current(self) -> bool:
        """Return whether the function is still the one that its module has under its name.

        This returns False for functions that are no attribute of a module, such as methods.
        """
        home = main_module() if self.roots else sys.modules.get(self.home or "")
        return getattr(home, self._name, None) is self.fn

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> bytes | None:
        """Return a call as a plain pickle; None if the arguments, or the function, do not travel that way."""
        try:
            if not self.beginning or not (FIXED_ATOMS.issuperset(map(type, args)) or are_small(args)):
                return None
            if not kwargs:
                written, end = pickle.dumps(args, 5), _NO_KEYWORDS
                data = unframed(written)[:-1]
            elif are_small(kwargs.values()):
                written, end = pickle.dumps((args, kwargs), 5), _KEYWORDS
                data = unframed(written)[: -len(_PAIR)]
            else:
                return None
        except (MemoryError, RuntimeError):
            # There is no memory, or a thread changes an argument: the longer way says which argument it is.
            return None
        if len(written) > LONGEST_FRAME:
            return None
        data = b"".join((self.beginning, data, end))
        return None if MARK in data else data


def _reference(fn: Any) -> bytes:
    """Return the beginning of a pickle that refers to `fn` by its name; b"" if it does not travel that way."""
    try:
        home, name = fn.__module__.encode(), fn.__qualname__.encode()
        if max(len(home), len(name)) > _LONGEST:
            return b""
        names = len(home), home, len(name), name
        return _UNNOTED % names if pickle.dumps(fn, 5)[_FRAMED:] == _REFERENCE % names else b""
    except Exception:  # it is no function, or cannot be pickled: the first call raises the error
        return b""
