"""``python -m dragonfly_executor.runner --fd N``: be a runner on the stream that was inherited as descriptor N."""

from __future__ import annotations

import socket
import sys

from dragonfly_executor.runner.agent import run


def main(arguments: list[str]) -> None:
    """Start the agent. Does not return."""
    if len(arguments) != 2 or arguments[0] != "--fd" or not arguments[1].isdigit():
        sys.exit("usage: python -m dragonfly_executor.runner --fd NUMBER")
    sock = socket.socket(fileno=int(arguments[1]))
    sock.set_inheritable(False)
    run(sock)


if __name__ == "__main__":
    main(sys.argv[1:])
