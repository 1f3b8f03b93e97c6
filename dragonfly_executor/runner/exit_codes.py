"""Exit codes of a runner that cannot report to its parent. The machine's manager shows them."""

from __future__ import annotations

STARTED_AGAIN = 0
"""The machine was started again. The runner that it was booted for ended before; this is no error."""
UNREACHABLE = 69
"""The parent could not be reached."""
REFUSED = 77
"""The parent refused to admit the runner."""
IDLE = 123
"""The runner had no call for its maximum idle time."""
EXPIRED = 124
"""The runner reached its maximum lifetime."""
SILENT = 125
"""The agent sent no heartbeat."""
