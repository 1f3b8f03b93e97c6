"""The control: upstream's own executor, put in place the way ours is.

What fails with this class fails because of the harness, not because of an executor.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor


class ControlExecutor(ProcessPoolExecutor):
    """A `ProcessPoolExecutor` under another name and from another module, so that the swap itself is tested."""
