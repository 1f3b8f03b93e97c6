"""The console script ``dragonfly``, which is also ``python -m dragonfly_executor``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dragonfly_executor.cli.doctor import command as doctor
from dragonfly_executor.cli.fleet import command as fleet
from dragonfly_executor.protocol.versions import __version__

BROKEN_PIPE = 128 + signal.SIGPIPE
"""What a shell says of a program that ended because nobody reads what it prints."""

EPILOG = (
    "list, sweep and destroy are for machines on Fly.io. Runners on this machine and on SSH hosts leave none behind."
)


class Terminated(KeyboardInterrupt):
    """SIGTERM: it ends what a Ctrl-C ends, and in the same way. An executor's block stops what runs there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="dragonfly", description="Runners that appear when they are needed.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"dragonfly_executor {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    doctor.add_to(commands)
    fleet.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        with _terminated_as_interrupted():
            status: int = options.run(options)
            if sys.stdout is not None:
                # Here, where it can be said what it means that nobody reads it.
                sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        # The executor's block has stopped what ran.
        return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)
    except BrokenPipeError:
        # The interpreter's end flushes what is left, and would say that it could not.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Have a SIGTERM raise `Terminated`, unless somebody else has a use for it."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    _handle(signal.SIGTERM, _terminate)
    afterwards = signal.SIG_DFL
    try:
        yield
    except KeyboardInterrupt:
        # What an executor's block has not stopped, the interpreter's end does: that is not to be cut short.
        afterwards = signal.SIG_IGN
        _handle(signal.SIGINT, afterwards)
        raise
    finally:
        _handle(signal.SIGTERM, afterwards)


def _terminate(_number: int, _frame: object) -> None:
    raise Terminated


def _handle(number: signal.Signals, handler: signal.Handlers | Callable[[int, object], None]) -> None:
    """Only a main thread may, and a program may call `main` in another."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)
