"""``dragonfly top``: the pools of this user's running programs, refreshed, with keys."""

from __future__ import annotations

import argparse
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dragonfly_executor.cli import terminal
from dragonfly_executor.cli.arguments import checked
from dragonfly_executor.cli.status.client import StatusError, ask_all
from dragonfly_executor.cli.status.top_view import Entry, TopView
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live

DESCRIPTION = "Show the pools of all programs of this user on this machine, and the calls that their runners have now."
EPILOG = "Keys: q quit, s sort, up and down select a call, k kill it, o show its output, p pause."
ANSWER_WITHIN = 0.5
"""Seconds to wait for a program that does not answer."""
UP, DOWN = b"\x1b[A", b"\x1b[B"


def add_to(commands: Any) -> None:
    """Add the command to the parser of ``dragonfly``."""
    parser = commands.add_parser(
        "top", help="watch the pools of running programs", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("--interval", type=_interval, default=1.0, metavar="S", help="seconds between refreshes; 1")
    parser.set_defaults(run=_run)


def _interval(text: str) -> float:
    return checked(text, float, "between 0.1 and 3600 seconds", lambda value: 0.1 <= value <= 3600)


def _run(options: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        terminal.show("dragonfly: top needs a terminal; use 'dragonfly status' here", file=sys.stderr)
        return 1
    try:
        from rich.live import Live
    except ImportError:
        advice = "top needs rich: pip install 'dragonfly-executor[top]'. 'dragonfly status' works without it"
        terminal.show(f"dragonfly: {advice}", file=sys.stderr)
        return 1
    view = TopView()
    with _keys_at_once(), Live(screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        _watch(view, live, options.interval)
    return 0


def _watch(view: TopView, live: Live, interval: float) -> None:
    """Refresh and obey keys, until the user quits."""
    due = time.monotonic()
    while True:
        if time.monotonic() >= due:
            if not view.is_paused:
                view.update(ask_all(ANSWER_WITHIN))
            due = time.monotonic() + interval
        live.update(view.render(live.console.size.height), refresh=True)
        key = _key(due - time.monotonic())
        if key is None:
            continue
        if key in (b"q", b"Q", b""):
            return
        if obey(view, key):
            due = time.monotonic()


def obey(view: TopView, key: bytes) -> bool:
    """Carry out a key's command. Returns True if the reports must be refreshed at once."""
    if view.output is not None:
        view.output = None
        return False
    view.message = ""
    if key in (b"s", b"S"):
        view.next_order()
    elif key in (UP, DOWN):
        view.move(-1 if key == UP else 1)
    elif key in (b"p", b"P"):
        view.is_paused = not view.is_paused
    elif key in (b"k", b"o", b"y"):
        return _ask_pool(view, key)
    view.doomed = None
    return False


def _ask_pool(view: TopView, key: bytes) -> bool:
    """Kill a call, after a question, or show its output."""
    entry, view_doomed = view.selected(), view.doomed
    view.doomed = None
    if key == b"y":
        return view_doomed is not None and _kill(view, view_doomed)
    if entry is None:
        view.message = "no call is selected"
    elif key == b"k":
        view.doomed = entry
        view.message = f"kill call {_name(entry)}? y: yes, any other key: no"
    else:
        _show_output(view, entry)
    return False


def _name(entry: Entry) -> str:
    return f"{entry.call['id']} ({entry.call['function'] or '-'}) of process {entry.report['pid']}"


def _kill(view: TopView, entry: Entry) -> bool:
    try:
        entry.address.ask({"ask": "kill", "call": entry.call["id"]}, ANSWER_WITHIN)
        view.message = f"call {_name(entry)} is being stopped"
    except (OSError, StatusError) as error:
        view.message = f"call {_name(entry)}: {error}"
    return True


def _show_output(view: TopView, entry: Entry) -> None:
    try:
        answer = entry.address.ask({"ask": "output", "call": entry.call["id"]}, ANSWER_WITHIN)
        view.output = f"output of call {_name(entry)}", str(answer["output"]) or "(none yet)"
    except (OSError, StatusError) as error:
        view.message = f"call {_name(entry)}: {error}"


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """Have the terminal give each key at once, and show none, until the end of the block. Ctrl-C stays Ctrl-C."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _key(wait: float) -> bytes | None:
    """Return the next key, or None if there is none within `wait` seconds. Empty if the terminal is gone."""
    descriptor = sys.stdin.fileno()
    if not select.select([descriptor], [], [], max(0.0, wait))[0]:
        return None
    key = os.read(descriptor, 1)
    # The bytes of an arrow key come together.
    while key.startswith(b"\x1b") and len(key) < 3 and select.select([descriptor], [], [], 0.05)[0]:
        more = os.read(descriptor, 1)
        if not more:
            break
        key += more
    return key
