"""The limit of the memory that one call may use in its slot."""

from __future__ import annotations

import sys

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

STATM: Final = "/proc/self/statm"
"""A file of Linux: its first number is the size of this process's address space in pages (man 5 proc)."""


class MemoryLimit:
    """The limit of a call that requires memory: the address space may grow by that much while the call runs.

    The kernel then refuses more memory, and Python raises a `MemoryError` (``RLIMIT_AS``, man 2 setrlimit). Processes
    that the call starts have the same limit, each for itself. Only Linux has such a limit: elsewhere nothing happens.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._before: tuple[int, int] | None = None

    def begin(self) -> None:
        """Set the limit. A lower limit that the process has already stays."""
        if sys.platform != "linux":
            return
        import resource

        try:
            with open(STATM, "rb") as statm:
                used = int(statm.read().split()[0]) * resource.getpagesize()
        except OSError:
            return  # a machine without /proc has no such limit, and runs the call all the same
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == resource.RLIM_INFINITY or used + self._size < soft:
            self._before = soft, hard
            resource.setrlimit(resource.RLIMIT_AS, (used + self._size, hard))

    def end(self, error: BaseException | None = None) -> None:
        """Restore the limit that was there before.

        Args:
            error: the exception that the call raised, or None. A `MemoryError` gets a note that names the limit.
        """
        before, self._before = self._before, None
        if before is None:
            return
        import resource

        resource.setrlimit(resource.RLIMIT_AS, before)
        if isinstance(error, MemoryError):
            error.add_note(
                f"the call requires {self._size} bytes of memory, and got no more: require more with"
                ' options(requires={"memory": ...})'
            )
