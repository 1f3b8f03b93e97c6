"""`TYPE_CHECKING` and `Protocol` without the module `typing`.

`typing` takes milliseconds to import, and each cold start of a program and of a runner would pay for it. Type checkers
know the name `TYPE_CHECKING` wherever it is imported from.
"""

__all__ = ["TYPE_CHECKING", "Protocol"]

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object
