"""``dragonfly dashboard``: serves a web page that shows the pools of this user's running programs."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dragonfly_executor.cli import terminal
from dragonfly_executor.cli.arguments import checked

DESCRIPTION = (
    "Serve a web page, for this machine alone, with the pools of all programs of this user: runners, calls on a "
    "timeline, times, failures. The page can kill calls and resize pools."
)
EPILOG = (
    "Everyone who knows the address can use the page, so treat it as a password. "
    "From another machine, forward the port: ssh -L 8700:127.0.0.1:8700 HOST dragonfly dashboard --port 8700"
)
ENDS_WITHIN = 5.0
"""Seconds to wait for the server's thread after Ctrl-C."""


def add_to(commands: Any) -> None:
    """Add the command to the parser of ``dragonfly``."""
    parser = commands.add_parser(
        "dashboard", help="show the pools of running programs on a web page", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="the port; by default a free one")
    parser.add_argument("--read-only", action="store_true", help="no calls can be killed, and no pools resized")
    parser.set_defaults(run=_run)


def _port(text: str) -> int:
    return checked(text, int, "a port between 0 and 65535", lambda value: 0 <= value <= 65535)


def _run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C, and return the exit status: 1 if the page cannot be served."""
    from dragonfly_executor.cli.dashboard.running_pools import RunningPools
    from dragonfly_executor.dashboard.server import DashboardServer, check_installed

    problems: list[BaseException] = []
    try:
        check_installed("dragonfly dashboard")
        server = DashboardServer(
            "dragonfly-dashboard",
            RunningPools(),
            read_only=options.read_only,
            port=options.port,
            failed=problems.append,
        )
    except ImportError as error:
        terminal.show(f"dragonfly: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        terminal.show(f"dragonfly: cannot listen on port {options.port}: {error.strerror or error}", file=sys.stderr)
        return 1
    server.start()
    try:
        terminal.show(server.url)
        sys.stdout.flush()
        server.join()
    finally:
        server.close()
        server.join(ENDS_WITHIN)
    for problem in problems:
        terminal.show(f"dragonfly: the page has ended: {problem!r}", file=sys.stderr)
    return 1 if problems else 0
