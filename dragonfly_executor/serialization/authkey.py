"""multiprocessing's key: what its managers' proxies prove themselves with, in a call as in the parent."""

from __future__ import annotations

import sys

from dragonfly_executor.serialization.post_import_hook import when_imported

# Type checkers take this name for true. A runner imports this module, and has no other use for typing, which is slow.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MODULE = "multiprocessing.process"


def own_key() -> bytes | None:
    """This process's key; None where multiprocessing is not in use, so that nothing can have been made with one."""
    process = sys.modules.get(_MODULE)
    return None if process is None else bytes(process.current_process().authkey)


def adopt(key: bytes) -> None:
    """Make the parent's key this process's own, once multiprocessing is imported."""

    def take_over(process: Any) -> None:
        process.current_process().authkey = key

    when_imported(_MODULE, take_over)
