"""multiprocessing's authentication key, which a manager's proxies need in a call as in the parent."""

from __future__ import annotations

import sys

from dragonfly_executor.serialization.post_import_hook import when_imported
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_MODULE = "multiprocessing.process"


def own_key() -> bytes | None:
    """Return this process's key; None if multiprocessing is not imported, because then no object uses the key."""
    process = sys.modules.get(_MODULE)
    return None if process is None else bytes(process.current_process().authkey)


def adopt(key: bytes) -> None:
    """Set this process's key to the parent's, once multiprocessing is imported."""

    def take_over(process: Any) -> None:
        process.current_process().authkey = key

    when_imported(_MODULE, take_over)
