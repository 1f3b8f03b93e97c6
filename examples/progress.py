"""Progress: calls report how far they are, and a map draws one bar for all of its items.

    python examples/progress.py

On a terminal the bar is rich's or tqdm's. Without a terminal there are lines of text.
"""

from __future__ import annotations

import math
import threading

from dragonfly_executor import CallProgress, DragonflyExecutor, progress


def integrate(steps: int) -> float:
    """Integrate the sine from 0 to pi, and report each step: that costs about a microsecond."""
    total = 0.0
    for step in range(steps):
        progress(step, steps, "first half" if step < steps / 2 else "second half")
        total += math.sin((step + 0.5) * math.pi / steps)
    progress(steps, steps, "done")
    return total * math.pi / steps


def is_prime(number: int) -> bool:
    """Return whether a number is prime."""
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def main() -> None:
    """Show the reports of a call, then the bar of a map."""
    has_ended = threading.Event()

    def show(report: CallProgress) -> None:
        """Print a report, at the callback thread of the pool."""
        print(f"{report.fraction or 0:4.0%} {report.text}", flush=True)
        if report.fraction == 1:
            has_ended.set()

    with DragonflyExecutor(max_workers=2) as executor:
        future = executor.options(on_progress=show).submit(integrate, 300_000)
        print(f"the integral is {future.result():.6f}")
        has_ended.wait()
        print(f"last: {future.progress()}")
        numbers = range(1_000_000, 1_002_000)
        print(f"{sum(executor.map(is_prime, numbers, chunksize=50, progress='primes'))} primes")


if __name__ == "__main__":
    main()
