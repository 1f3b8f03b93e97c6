"""The console script ``dragonfly``, which is also ``python -m dragonfly_executor``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dragonfly_executor.cli import simulate
from dragonfly_executor.cli.dashboard import command as dashboard
from dragonfly_executor.cli.doctor import command as doctor
from dragonfly_executor.cli.fleet import command as fleet
from dragonfly_executor.cli.replay import command as replay
from dragonfly_executor.cli.status import command as status
from dragonfly_executor.cli.status import top
from dragonfly_executor.protocol.versions import __version__

BROKEN_PIPE = 128 + signal.SIGPIPE
"""The exit status that shells report for a program killed by SIGPIPE."""

EPILOG = (
    "list, sweep and destroy are for machines on Fly.io, and with --backend NAME for other backends. Runners on this "
    "machine and on SSH hosts leave nothing behind."
)


class Terminated(KeyboardInterrupt):
    """SIGTERM as an exception. As after Ctrl-C, an executor's `with` block stops its runners, and the program ends."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="dragonfly", description="Runners that appear when they are needed.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"dragonfly_executor {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    doctor.add_to(commands)
    fleet.add_to(commands)
    simulate.add_to(commands)
    status.add_to(commands)
    top.add_to(commands)
    dashboard.add_to(commands)
    replay.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand, and return its exit status."""
    options = make_parser().parse_args(arguments)
    try:
        with _terminated_as_interrupted():
            code: int = options.run(options)
            if sys.stdout is not None:
                # Flush here, so that a broken pipe is still handled below.
                sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        # The executor's `with` block has stopped its runners.
        return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)
    except BrokenPipeError:
        # The interpreter flushes stdout again at exit. Without a new target, it reports the error again.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM while in the block, unless a handler is already set."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    _handle(signal.SIGTERM, _terminate)
    afterwards = signal.SIG_DFL
    try:
        yield
    except KeyboardInterrupt:
        # Interpreter exit stops the runners that no `with` block has stopped. A second signal must not interrupt that.
        afterwards = signal.SIG_IGN
        _handle(signal.SIGINT, afterwards)
        raise
    finally:
        _handle(signal.SIGTERM, afterwards)


def _terminate(_number: int, _frame: object) -> None:
    raise Terminated


def _handle(number: signal.Signals, handler: signal.Handlers | Callable[[int, object], None]) -> None:
    """Set a signal handler if this is the main thread. Other threads may call `main`, but must not set handlers."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)
