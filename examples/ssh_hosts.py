"""Price an option on all processors of some SSH hosts, by simulating its paths.

    python examples/ssh_hosts.py gpu1 ann@10.0.0.7:2222

A host needs no file of this program: the pool sends the script. A host that boots earlier takes more calls.
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from statistics import fmean, stdev

from dragonfly_executor import DragonflyExecutor, Parent

CALLS, PATHS, STEPS = 40, 1_000, 50
NEEDED = """\
Name the hosts:  python examples/ssh_hosts.py gpu1 ann@10.0.0.7:2222
A host needs an sshd that accepts one of your keys, and Python {}.{}. Its own key must be in your known_hosts file.
`ssh HOST python3 --version` shows all of that. `dragonfly doctor --backend ssh HOST` says what is missing."""


def price(seed: int) -> tuple[float, int]:
    """Return the mean payoff of an Asian call over random paths, and the number of the runner that simulated them."""
    rng = random.Random(seed)
    total = 0.0
    for _ in range(PATHS):
        value = mean = 100.0
        for step in range(1, STEPS + 1):
            value *= math.exp(rng.gauss(0.0002, 0.02))
            mean += (value - mean) / (step + 1)
        total += max(mean - 100.0, 0.0)
    parent = Parent.get()
    return total / PATHS, parent.runner_id if parent else 0


def main(hosts: list[str]) -> int:
    """Price the option on the hosts. Return 2 if none is named."""
    if not hosts:
        print(NEEDED.format(*sys.version_info), file=sys.stderr)
        return 2
    # Hosts import this script too, and they need no paramiko. So the backend is imported here.
    from dragonfly_executor import SSHBackend

    with DragonflyExecutor(backend=SSHBackend(hosts)) as executor:
        prices, runners = zip(*executor.map(price, range(CALLS)), strict=True)
    for runner, calls in sorted(Counter(runners).items()):
        print(f"runner {runner}: {calls} calls")
    print(f"price: {fmean(prices):.2f}, give or take {2 * stdev(prices) / math.sqrt(CALLS):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
