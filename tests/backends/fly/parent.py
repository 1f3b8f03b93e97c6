"""A program that boots runners on Fly, for tests that kill it. All it needs is in its environment.

``python -m tests.backends.fly.parent CALLS`` makes that many calls, one after another, and says when
the first one is done.
"""

from __future__ import annotations

import sys

from dragonfly_executor import DragonflyExecutor, FlyBackend


def main() -> None:
    """Work."""
    backend = FlyBackend(failsafe=0.5, max_lifetime=60.0)
    with DragonflyExecutor(backend=backend, max=1, max_concurrency=1, lease=2.0, heartbeat=0.3) as executor:
        for number in range(int(sys.argv[1])):
            assert executor.submit(pow, number, 2).result() == number**2
            if number == 0:
                print("called", flush=True)


if __name__ == "__main__":
    main()
