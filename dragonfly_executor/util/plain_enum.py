"""`IntEnum` without the module `enum`, which takes longer to import than most of what a runner needs.

The members are instances of the class, which is a subclass of `int`. A class has no aliases and no methods of its own.
"""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

__all__ = ["IntEnum"]

if TYPE_CHECKING:
    from enum import IntEnum
else:

    class _EnumType(type):
        def __new__(cls, name, bases, body):
            """Make the class, and a member of it for each number in its body."""
            numbers = {key: value for key, value in body.items() if type(value) is int and key[0] != "_"}
            rest = {key: value for key, value in body.items() if key not in numbers}
            made = super().__new__(cls, name, bases, {**rest, "_members": {}})
            for key, value in numbers.items():
                member = int.__new__(made, value)
                member.name, member.value = key, value
                made._members[value] = member
                setattr(made, key, member)
            return made

        def __call__(cls, value):
            """Return the member with this value."""
            try:
                return cls._members[value]
            except (KeyError, TypeError):
                raise ValueError(f"{value!r} is not a valid {cls.__qualname__}") from None

        def __iter__(cls):
            return iter(cls._members.values())

        def __len__(cls):
            return len(cls._members)

        def __contains__(cls, value):
            return value in cls._members

    class IntEnum(int, metaclass=_EnumType):
        """A base class of enumerations of numbers."""

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {self.value}>"

        def __str__(self):
            return str(self.value)

        def __reduce__(self):
            return type(self), (self.value,)
