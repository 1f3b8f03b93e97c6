"""The code of functions that travel by value, as bytes. The code of a function never changes, so it is written once."""

from __future__ import annotations

import marshal
from types import CodeType, EllipsisType, NoneType

from dragonfly_executor.serialization.code_names import code_names

MOST = 1024
"""Number of code objects that a table keeps at most."""
LARGEST = 64 * 1024
"""Size in bytes of the largest code that is kept."""
# marshal writes other constants as something else, or not at all. Tools that make code objects put any object there.
_CONSTANTS = frozenset({NoneType, bool, int, float, complex, str, bytes, EllipsisType})


class WrittenCode:
    """A code object, and the facts about it that do not change.

    Attributes:
        code: the code object.
        data: the code as bytes; None if `marshal` cannot write one of its constants.
        names: the globals that the code uses.
        attributes: every name that the code uses, attributes included.
    """

    __slots__ = ("attributes", "code", "data", "names")

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.data = marshal.dumps(code) if _is_plain(code) else None
        self.names, self.attributes = code_names(code)


class CodeTable:
    """The code objects that were written last. Any thread, at any time."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._written: dict[int, WrittenCode] = {}

    def __getitem__(self, code: CodeType) -> WrittenCode:
        """Return a code object with its bytes.

        Code objects are told apart by their identity: two that are equal may be from different files.
        """
        known = self._written.get(id(code))
        if known is not None:  # it keeps its code object alive, so no other one has this id
            return known
        written = WrittenCode(code)
        if len(written.data or b"") <= LARGEST:
            if len(self._written) >= self._most:
                self._written = {}
            self._written[id(code)] = written
        return written

    def __len__(self) -> int:
        """Return the number of code objects that are kept."""
        return len(self._written)


def _is_plain(code: CodeType) -> bool:
    return all(map(_is_constant, code.co_consts))


def _is_constant(value: object) -> bool:
    kind = type(value)
    if kind in _CONSTANTS:
        return True
    if isinstance(value, CodeType):
        return _is_plain(value)
    return (kind is tuple or kind is frozenset) and all(map(_is_constant, value))  # type: ignore[call-overload]
