"""What of the parent's files a runner elsewhere needs, and how it gets there.

`Sync` is what a backend says about it; the rest is the pool's: `Keeper` knows what is to be where, for all runners, and
a `Sender` sees to it for one of them.
"""

from __future__ import annotations

from dragonfly_executor.sync.file_snapshot import Keeper
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.sync.sender import Sender

__all__ = ["Keeper", "Sender", "Sync"]
