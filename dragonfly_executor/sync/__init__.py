"""File sync: the parent's files that a remote runner needs, and their transfer.

`Sync` holds the options of a backend. The pool has one `FileSnapshot`, which knows the files for all runners, and one
`Sender` for each runner.
"""

from __future__ import annotations

from dragonfly_executor.sync.file_snapshot import FileSnapshot
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.sync.sender import Sender

__all__ = ["FileSnapshot", "Sender", "Sync"]
