"""Exit codes of a runner that cannot report to its parent. The machine's manager shows them."""

from __future__ import annotations

STARTED_AGAIN = 0
"""Exit code if the machine was started again. The runner that it was booted for ended before: this is no error."""
UNREACHABLE = 69
"""Exit code if the parent could not be reached."""
REFUSED = 77
"""Exit code if the parent refused to admit the runner."""
IDLE = 123
"""Exit code if the runner had no call for its maximum idle time."""
EXPIRED = 124
"""Exit code if the runner reached its maximum lifetime."""
SILENT = 125
"""Exit code if the agent sent no heartbeat."""
