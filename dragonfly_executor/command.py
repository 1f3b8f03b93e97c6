"""The console script ``dragonfly``, which is also ``python -m dragonfly_executor``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dragonfly_executor.doctor import command as doctor
from dragonfly_executor.fleet import command as fleet
from dragonfly_executor.versions import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    parser = argparse.ArgumentParser(prog="dragonfly", description="Runners that appear when they are needed.")
    parser.add_argument("--version", action="version", version=f"dragonfly_executor {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    doctor.add_to(commands)
    fleet.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        # The executor's block has stopped what ran.
        return 130
    return status
