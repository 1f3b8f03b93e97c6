"""`TYPE_CHECKING`, `Protocol` and `overload` without the module `typing`.

`typing` takes milliseconds to import, and each cold start of a program and of a runner pays for it. Type checkers
know the name `TYPE_CHECKING` wherever it is imported from.
"""

__all__ = ["TYPE_CHECKING", "Protocol", "overload"]

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Protocol, overload
else:
    Protocol = object

    def overload(function):
        """Return the function, which the implementation behind its overloads replaces."""
        return function
