"""A model that is loaded once and then serves: a worker in a slot of its own.

    python examples/model_worker.py

The model is scikit-learn's. It is trained where the worker is placed, so it never travels. Calls that are not methods
of the worker go on beside it. The worker is killed in the middle, begins again, and serves the calls that waited.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from dragonfly_executor import DragonflyExecutor, WorkerLostError


class DigitReader:
    """Reads images of handwritten digits."""

    def __init__(self, trees: int) -> None:
        # Imported in the slot: the program itself does not need them.
        from sklearn.datasets import load_digits
        from sklearn.ensemble import RandomForestClassifier

        images, digits = load_digits(return_X_y=True)
        self.images, self.digits = images[1200:], digits[1200:]
        self.model = RandomForestClassifier(trees, random_state=0).fit(images[:1200], digits[:1200])

    def accuracy(self) -> float:
        """Return the share of the images which the model has not seen that it reads correctly."""
        return float(self.model.score(self.images, self.digits))

    def read(self, images: Any) -> list[int]:
        """Return the digits in images."""
        return [int(digit) for digit in self.model.predict(images)]

    def sample(self, count: int) -> Any:
        """Return some images, as an array."""
        return self.images[:count]

    def process(self) -> int:
        """Return the id of the process that has the model."""
        return os.getpid()


def main() -> None:
    """Place the model, use it, lose it, and use it again."""
    with (
        DragonflyExecutor(max_workers=2) as executor,
        executor.options(restart="on_failure").place(DigitReader, trees=50) as reader,
    ):
        began = time.perf_counter()
        reader.ready.result()
        loaded = time.perf_counter() - began
        print(f"accuracy: {reader.accuracy().result():.2f}")
        images = reader.sample(8).result()
        began = time.perf_counter()
        digits = reader.read(images).result()
        print(f"digits: {digits}")
        print(f"the model was loaded in {loaded:.1f} s, and read 8 images in {time.perf_counter() - began:.3f} s")
        print(f"calls beside it: {list(executor.map(abs, [-1, -2, -3]))}")

        os.kill(reader.process().result(), signal.SIGKILL)
        lost = 0
        while True:
            try:
                again = reader.read(images).result()
                break
            except WorkerLostError:
                lost += 1  # it was on its way when the worker died, so it may have run
        print(f"after a restart: {again == digits}, calls lost: {lost <= 1}")


if __name__ == "__main__":
    main()
