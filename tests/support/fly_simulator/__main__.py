"""By hand: `python -m tests.support.fly_simulator [--port NUMBER]`, from the root of the repository.

Prints what to export, then serves until it is ended by Ctrl-C or SIGTERM, and ends its machines.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from tests.support.fly_simulator.simulator import Simulator


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.fly_simulator", description="Fly's Machines API, simulated."
    )
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1 (a free port)")
    parser.add_argument("--app", default="media", help="the app's name (media)")
    parser.add_argument("--region", default="cdg", help="the parent's region (cdg)")
    parser.add_argument("--pull", type=float, default=0.01, metavar="SECONDS", help="spent in `created` (0.01)")
    parser.add_argument("--no-rates", action="store_true", help="do not limit rates")
    arguments = parser.parse_args()
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    simulator = Simulator(port=arguments.port, app=arguments.app, region=arguments.region)
    simulator.timing.pull_time = arguments.pull
    simulator.rates.on = not arguments.no_rates
    exports = " ".join(f"{name}='{value}'" for name, value in simulator.environment.items())
    print(f"export {exports}", flush=True)
    for reason in (simulator.addresses.reason, simulator.openapi.reason):
        if reason:
            print(f"# {reason}", file=sys.stderr, flush=True)
    end.wait()
    print(simulator.describe(), file=sys.stderr)
    troubles = simulator.close()
    if troubles:
        sys.exit("\n".join(troubles))


if __name__ == "__main__":
    main()
