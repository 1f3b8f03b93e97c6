"""``python -m dragonfly_executor``: see `dragonfly_executor.command`."""

from __future__ import annotations

import sys

from dragonfly_executor.command import main

if __name__ == "__main__":
    sys.exit(main())
