"""Large ``str`` objects, which travel as UTF-8 beside the pickle.

A pickler encodes a ``str`` into new memory before it writes it, and an unpickler decodes it into memory that the kernel
maps by pages of 4 KiB. For a large one, each of these takes several times as long as the copy. The memory of an ASCII
``str`` is its UTF-8 form, so the text needs one copy on each side. Other texts are encoded once.
"""

from __future__ import annotations

from functools import cache

from dragonfly_executor.serialization.small_values import LEAST_TEXT
from dragonfly_executor.util import large_pages
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.plain_pickle import PickleBuffer

_HIGHEST_ASCII = 127

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class LargeText:
    """A stand-in for a large ``str`` in what is pickled. It arrives as the ``str``.

    Args:
        text: the text.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __reduce__(self) -> Any:
        if self._text.isascii():
            return text_of, (PickleBuffer(_memory_of(self._text)),)
        # As pickle does it: a `str` may hold lone surrogates.
        return decoded_text, (PickleBuffer(self._text.encode("utf-8", "surrogatepass")),)


def is_large_text(value: object) -> bool:
    """Return whether a value is a ``str`` that travels beside the pickle."""
    return type(value) is str and len(value) >= LEAST_TEXT


def with_stand_ins(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with a stand-in for each large text. One text has one stand-in."""
    made: dict[int, LargeText] = {}

    def stand_in(value: Any) -> Any:
        return made.setdefault(id(value), LargeText(value)) if is_large_text(value) else value

    return tuple(map(stand_in, args)), {name: stand_in(value) for name, value in kwargs.items()}


def decoded_text(data: bytes | bytearray | memoryview) -> str:
    """Return the text of which this is the UTF-8 form."""
    return str(data, "utf-8", "surrogatepass")


def text_of(data: bytes | bytearray | memoryview) -> str:
    """Return the text that consists of these bytes, which are ASCII."""
    if len(data) < large_pages.LARGE:
        return str(data, "ascii")
    try:
        text, memory = _functions()[1](len(data))
    except (ImportError, OSError):
        return str(data, "ascii")
    large_pages.prepare(memory)
    memory[:] = data
    return text


def _memory_of(text: str) -> memoryview:
    """Return a view of the bytes of an ASCII text."""
    try:
        return _functions()[0](text).toreadonly()
    except (ImportError, OSError):  # no descriptor is left for the import of ctypes
        return memoryview(text.encode("ascii"))


@cache
def _functions() -> tuple[Callable[[str], memoryview], Callable[[int], tuple[str, memoryview]]]:
    """Return two functions: one returns the memory of an ASCII text, the other a new text of some size and its memory.

    Raises:
        ImportError, OSError: ctypes cannot be imported.
    """
    # Imported at the first large text.
    from ctypes import POINTER, PYFUNCTYPE, c_ssize_t, c_ubyte, c_uint32, c_void_p, py_object, pythonapi

    # Prototypes of our own: to set the types of `pythonapi`'s functions would change them for the whole process.
    address_of = PYFUNCTYPE(c_void_p, py_object, POINTER(c_ssize_t))(("PyUnicode_AsUTF8AndSize", pythonapi))
    new_text = PYFUNCTYPE(py_object, c_ssize_t, c_uint32)(("PyUnicode_New", pythonapi))

    def memory_of(text: str) -> memoryview:
        # For an ASCII text this is the address of its own bytes, and nothing is encoded.
        memory: Any = (c_ubyte * len(text)).from_address(address_of(text, None))
        memory.text = text  # it lives as long as any view of its bytes
        return memoryview(memory).cast("B")

    def new_text_and_memory(size: int) -> tuple[str, memoryview]:
        text = new_text(size, _HIGHEST_ASCII)
        return text, memory_of(text)

    return memory_of, new_text_and_memory
