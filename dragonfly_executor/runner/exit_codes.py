"""With which status a runner ends whom nobody can ask any more: what its machine's manager shows."""

from __future__ import annotations

STARTED_AGAIN = 0
"""Its machine was started again: the runner that it was booted for has ended with it, and nothing is wrong."""
UNREACHABLE = 69
"""Nobody was there to let it in."""
REFUSED = 77
"""The parent did not let it in."""
IDLE = 123
"""It has had no call for as long as it may."""
EXPIRED = 124
"""It has been there for as long as it may."""
SILENT = 125
"""Its agent gave no sign of life."""
