"""Find the best settings of a model: a call for each point of a grid, and one bar for all of them.

    python examples/sweep.py

The bar shows items a second, failed items and runners. The model is a kernel ridge regression in NumPy.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

from dragonfly_executor import DragonflyExecutor

WIDTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
FOLDS = 5


@cache
def data() -> Any:
    """Return points and noisy values of a function. The slot keeps them for its next call."""
    import numpy as np

    random = np.random.default_rng(1)
    points = random.random(400)
    return points, np.sin(12 * points) + 0.3 * random.standard_normal(400)


def error(width: float, penalty: float) -> float:
    """Fit the model to four fifths of the data, five times. Return its mean squared error on the other fifth."""
    import numpy as np  # in the slot: the program itself does not need it

    points, values = data()
    kernel = np.exp(-((points[:, None] - points) ** 2) / (2 * width**2))
    fold = np.arange(len(points)) % FOLDS
    squares = 0.0
    for number in range(FOLDS):
        seen, left = fold != number, fold == number
        weights = np.linalg.solve(kernel[np.ix_(seen, seen)] + penalty * np.eye(seen.sum()), values[seen])
        squares += float(((kernel[np.ix_(left, seen)] @ weights - values[left]) ** 2).sum())
    return squares / len(points)


def main() -> None:
    """Try all points of the grid, and print them as a table."""
    grid = list(product(WIDTHS, PENALTIES))
    with DragonflyExecutor(max_workers=2) as executor:
        errors = dict(zip(grid, executor.map(error, *zip(*grid, strict=True), progress="sweep"), strict=True))
    print("width \\ penalty " + "".join(f"{penalty:>8}" for penalty in PENALTIES))
    for width in WIDTHS:
        print(f"{width:>15} " + "".join(f"{errors[width, penalty]:>8.4f}" for penalty in PENALTIES))
    width, penalty = min(errors, key=errors.__getitem__)
    print(f"best: width {width}, penalty {penalty}, error {errors[width, penalty]:.4f}")


if __name__ == "__main__":
    main()
