"""Be a runner.

``python -m dragonfly_executor.runner --fd N`` speaks on the stream that was inherited as descriptor N.

``python -m dragonfly_executor.runner`` dials back to the parent that the environment variable DRAGONFLY_PARENT
describes; with ``--parent-on-stdin`` the description is the first line of standard input. ``--failsafe SECONDS`` says
how long it may take until the parent has let it in (20).
"""

from __future__ import annotations

import socket
import sys

from dragonfly_executor.runner.agent import run

USAGE = "usage: python -m dragonfly_executor.runner [--fd NUMBER | [--parent-on-stdin] [--failsafe SECONDS]]"
FAILSAFE = 20.0


def main(arguments: list[str]) -> None:
    """Start the agent. Does not return."""
    if arguments[:1] == ["--fd"]:
        if len(arguments) != 2 or not arguments[1].isdigit():
            sys.exit(USAGE)
        sock = socket.socket(fileno=int(arguments[1]))
        sock.set_inheritable(False)
        run(sock)
        return
    on_stdin = arguments[:1] == ["--parent-on-stdin"]
    failsafe = FAILSAFE
    rest = arguments[on_stdin:]
    if rest:
        if len(rest) != 2 or rest[0] != "--failsafe" or not rest[1].replace(".", "", 1).isdigit():
            sys.exit(USAGE)
        failsafe = float(rest[1])
    # It loads ssl, which a runner with a stream of its own has no use for.
    from dragonfly_executor.runner import dial

    try:
        place = dial.dial_back(dial.take_parent(on_stdin=on_stdin), failsafe)
    except dial.NotLetInError as error:
        sys.exit(f"dragonfly runner: {error}")
    run(*place)


if __name__ == "__main__":
    main(sys.argv[1:])
