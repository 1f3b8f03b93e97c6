"""Find the temperature at which a magnet loses its magnetization, with Slurm jobs as runners.

    python examples/slurm_jobs.py partition=short time=10 cpus_per_task=2

Arguments are options of sbatch. Two jobs start as one array when calls wait, and end when all calls are done.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import sys

from dragonfly_executor import DragonflyExecutor, SlurmBackend

SIZE, SWEEPS = 16, 400
TEMPERATURES = [1.6 + 0.1 * number for number in range(16)]


def magnetization(temperature: float) -> tuple[float, str]:
    """Simulate an Ising model. Return the mean magnetization of a spin, and the job that this call runs in."""
    rng = random.Random(round(10 * temperature))
    spins = [[1] * SIZE for _ in range(SIZE)]
    total = 0.0
    for sweep in range(SWEEPS):
        for row in range(SIZE):
            above, here, below = spins[row - 1], spins[row], spins[(row + 1) % SIZE]
            for column in range(SIZE):
                field = above[column] + below[column] + here[column - 1] + here[(column + 1) % SIZE]
                if rng.random() < math.exp(-2 * here[column] * field / temperature):
                    here[column] = -here[column]
        if sweep >= SWEEPS // 2:
            total += abs(sum(map(sum, spins)))
    return total / (SWEEPS // 2) / SIZE**2, os.environ.get("SLURM_JOB_ID", "no job")


def main(settings: list[str]) -> int:
    """Simulate all temperatures. Return 2 if there is no Slurm here."""
    if shutil.which("sbatch") is None:
        print("There is no sbatch here. Run this on a machine that submits jobs to Slurm.", file=sys.stderr)
        return 2
    backend = SlurmBackend.from_text(**dict(setting.split("=", 1) for setting in settings))
    with DragonflyExecutor(backend=backend, max=2) as executor:
        jobs = set()
        for temperature, (mean, job) in zip(TEMPERATURES, executor.map(magnetization, TEMPERATURES), strict=True):
            print(f"{temperature:.1f}  {mean:.2f}  {'#' * round(50 * mean)}", flush=True)
            jobs.add(job)
    print(f"jobs: {', '.join(sorted(jobs))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
