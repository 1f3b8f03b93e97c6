"""``python -m dragonfly_executor``: see `dragonfly_executor.cli.main`."""

from __future__ import annotations

import sys

from dragonfly_executor.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
