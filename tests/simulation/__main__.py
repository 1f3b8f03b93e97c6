"""Print the figures of docs/scaling.md: ``python -m tests.simulation``. That takes a minute."""

from __future__ import annotations

import argparse

from tests.simulation.figures import advice, beside_dask, tables

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", nargs="*", default=[], help="compare with Dask alone, on loads with these seeds")
    seeds = parser.parse_args().seed
    for line in (line for seed in seeds for line in beside_dask(seed)) if seeds else (*tables(), *advice()):
        print(line)
