"""Runs a runner from the command line.

``python -m dragonfly_executor.runner --fd N [MEMORY PIPE [SOCKET]]`` uses the stream that it inherited as descriptor N.
Its slots mark in MEMORY the calls that they start, and hold PIPE open as long as they live; see
`transport.call_start_cells`. At SOCKET they connect to share memory with the parent; see `transport.memory_channel`.

``python -P -m dragonfly_executor.runner`` dials back to the parent that the environment variable DRAGONFLY_PARENT
describes. The parent must admit it within ``--failsafe SECONDS`` (20). ``--max-lifetime SECONDS`` starts a watchdog
process, for a runner that is the main process of a machine. The watchdog ends the runner after this time, and earlier
if it hangs, or if it has had no call for ``--max-idle SECONDS``. When the machine is stopped, calls have ``--stop-grace
SECONDS`` to finish (25). With ``--end-with PID`` the runner ends when the process PID ends, which must have started it:
a worker of a cluster engine. A Fly token in the runner's environment is removed, unless ``--keep-token 1`` is given.
Calls may import from the directory in which the runner was started, after all other entries; ``-P`` keeps Python from
putting that directory first.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # Must precede all other imports: no file there may shadow the standard library.
    del sys.path[0]

import os

from dragonfly_executor.runner.agent import run
from dragonfly_executor.transport.sockets import Socket
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from dragonfly_executor.protocol.parent import Parent
    from dragonfly_executor.runner.agent import Agent
    from dragonfly_executor.runner.dialback import NotAdmittedError

USAGE = (
    "usage: python -m dragonfly_executor.runner "
    "[--fd NUMBER [MEMORY PIPE [SOCKET]] | [--failsafe SECONDS] [--keep-token 1] [--end-with PID] "
    "[--max-lifetime SECONDS [--max-idle SECONDS] [--stop-grace SECONDS]]]"
)
WHOLE_NODE = sys.maxsize
"""Number of ancestors that exist for the runner alone, if the node does: all."""
FAILSAFE = 20.0
STOP_GRACE = 25.0
TOKENS = ("FLY_API_TOKEN", "FLY_ACCESS_TOKEN")
"""Environment variables with Fly tokens. A token gives full control of the app, so calls get it only on request."""


def main(arguments: list[str]) -> None:
    """Run a runner by these arguments. Does not return."""
    if arguments[:1] == ["--fd"]:
        if len(arguments) not in (2, 4, 5) or not all(argument.isdigit() for argument in arguments[1:]):
            sys.exit(USAGE)
        fd, *starts = (int(argument) for argument in arguments[1:])
        for inherited in (fd, *starts):
            os.set_inheritable(inherited, False)
        run(Socket(fileno=fd), prepare=lambda agent: agent.share_memory(*starts))
        return
    seconds = {
        "--failsafe": FAILSAFE,
        "--max-lifetime": 0.0,
        "--max-idle": 0.0,
        "--stop-grace": STOP_GRACE,
        "--keep-token": 0.0,
        "--end-with": 0.0,
    }
    for name, value in zip(arguments[::2], [*arguments[1::2], ""], strict=False):
        if name not in seconds or not value.replace(".", "", 1).isdigit():
            sys.exit(USAGE)
        seconds[name] = float(value)
    # Imported only here, because it loads ssl, which a runner with a stream of its own does not need.
    from dragonfly_executor.runner import dialback

    _append_working_directory()
    try:
        parent = dialback.take_parent()
    except dialback.NotAdmittedError as error:
        _give_up(error)
    failsafe, max_lifetime, max_idle, grace, keeps_token, starter = seconds.values()
    if not keeps_token:
        dialback.drop(*TOKENS)
    if not max_lifetime:
        _run_beside(int(starter), parent, failsafe)
        return
    from dragonfly_executor.runner import watchdog

    def run_agent(send_heartbeat: Callable[[bool], None]) -> None:
        """Run the agent, and have it send heartbeats to the watchdog."""
        _run_once_admitted(
            parent,
            failsafe,
            lambda agent: agent.start_heartbeat(send_heartbeat, watchdog.EVERY, grace),
            starters=WHOLE_NODE,
        )

    watchdog.guard(run_agent, max_lifetime, failsafe, max_idle)


def _append_working_directory() -> None:
    try:
        sys.path.append(os.getcwd())
    except FileNotFoundError:
        return  # the directory was removed


def _run_beside(starter: int, parent: Parent, failsafe: float) -> None:
    """Run an agent that ends with the process `starter`, if it is not 0."""
    if not starter:
        _run_once_admitted(parent, failsafe, starters=WHOLE_NODE)
        return
    from dragonfly_executor.runner import process_tree

    process_tree.die_with_parent(starter)

    def watch_starter(agent: Agent) -> None:
        # From now on the agent watches it, and ends in order: the kernel would end the agent alone.
        process_tree.outlive_parent()
        agent.end_with(starter)

    _run_once_admitted(parent, failsafe, watch_starter)


def _run_once_admitted(
    parent: Parent, failsafe: float, prepare: Callable[[Agent], None] | None = None, starters: int = 0
) -> None:
    from dragonfly_executor.runner import dialback

    try:
        place = dialback.dial_back(parent, failsafe)
    except dialback.NotAdmittedError as error:
        _give_up(error)
    run(*place, prepare=prepare, starters=starters)


def _give_up(error: NotAdmittedError) -> NoReturn:
    sys.stderr.write(f"dragonfly runner: {error}\n")
    sys.exit(error.status)


if __name__ == "__main__":
    main(sys.argv[1:])
