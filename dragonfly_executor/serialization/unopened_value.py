"""Results that another slot can open as they are, so that the parent need not open them."""

from __future__ import annotations

import re

from dragonfly_executor.serialization.layout import BOX, PICKLE, body_of
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.serialization.layout import Received

OF_ONE_SIDE = (
    *(re.compile(re.escape(name)) for name in (b"__main__", b"__mp_main__", b"multiprocessing", b"cloudpickle")),
    re.compile(rb"dragonfly_executor(?!\.serialization\.large_text)"),
)
"""In the pickles of objects that mean something else in a slot than in the parent. Large texts do not."""
BYTES_BEGIN = {ord("B"): 7, 0x8E: 11, 0x96: 11}
"""By the opcode of ``bytes`` and ``bytearray``, where their content begins in the pickle of such an object."""
BYTES_END = b"\x94."


def is_portable(data: Received) -> bool:
    """Return whether the encoded result of a slot means the same in any other slot of the pool.

    It does if plain pickle has written it, and if it refers only to what can be imported.
    """
    if data[0] == PICKLE:
        body = memoryview(data)
        if _is_bytes(body):
            return True  # a search of the content takes longer than a copy
    elif data[0] == BOX and not data[1]:
        body = body_of(data)
    else:
        return False
    return not any(mark.search(body) for mark in OF_ONE_SIDE)


def _is_bytes(pickle: memoryview) -> bool:
    start = BYTES_BEGIN.get(pickle[2]) if len(pickle) > 2 else None
    if start is None:
        return False
    size = int.from_bytes(pickle[3:start], "little")
    return len(pickle) == start + size + len(BYTES_END) and pickle[-len(BYTES_END) :] == BYTES_END
