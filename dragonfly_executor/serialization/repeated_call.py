"""Encodes many calls of one function, such as those of a `map`: the function is pickled once."""

from __future__ import annotations

import pickle

from dragonfly_executor.serialization.formats import MARK
from dragonfly_executor.serialization.layout import ATOMS
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.serialization.layout import Buffer
    from dragonfly_executor.serialization.parent_codec import CallCodec

# Opcodes of pickle's protocol 5, and the lengths of what precedes them.
_PROTOCOL = b"\x80\x05"
_FRAMED = len(_PROTOCOL) + 9
"""Bytes before the content of a pickle's only frame: the protocol, the opcode FRAME and its 8 bytes of length."""
_MAX_FRAME = 64 * 1024 - 1
"""Maximum bytes of a pickle that is a single frame for sure."""
_REFERENCE = b"\x8c%c%s\x94\x8c%c%s\x94\x93\x94."
"""A reference to a global: two strings and STACK_GLOBAL, each of them noted in the memo, and STOP."""
_UNNOTED = b"\x80\x05\x8c%c%s\x8c%c%s\x93"
"""The beginning of a pickle: the same reference, noted nowhere, so that the numbers in the memo still begin at 0."""
_NO_KEYWORDS = b"}\x87."
"""The end of a pickle: an empty dict, the tuple of three, and STOP."""
_LONGEST = 255


class RepeatedCall:
    """The encoder of the calls of one function, without keyword arguments.

    Args:
        codec: encodes the first call, and each call that needs more than plain pickle.
        fn: the function.
        retry_on: see `CallCodec.encode_call`.
    """

    def __init__(
        self, codec: CallCodec, fn: Callable[..., Any], retry_on: tuple[type[BaseException], ...] = ()
    ) -> None:
        self._codec = codec
        self._fn = fn
        self._retry_on = retry_on
        self._home = getattr(fn, "__module__", None)
        self._beginning = b"" if retry_on else _reference(fn)

    def encode(self, args: tuple[Any, ...]) -> list[Buffer]:
        """Encode a call, as `CallCodec.encode_call` does."""
        if self._beginning and ATOMS.issuperset(map(type, args)) and self._codec.sends_by_reference(self._home):
            data = pickle.dumps(args, 5)
            if len(data) <= _MAX_FRAME:
                data = b"".join((self._beginning, data[_FRAMED if data[2] == 0x95 else 2 : -1], _NO_KEYWORDS))
                if MARK not in data:
                    return [data]
        return self._codec.encode_call(self._fn, args, {}, self._retry_on)


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
