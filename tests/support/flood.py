"""Useless connections at a steady rate: ``python -m tests.support.flood HOST PORT RATE BYTES``.

Each sends BYTES (hexadecimal, may be empty) and stays open. After `FULL` connections it writes a line, and goes on
until it is killed.
"""

from __future__ import annotations

import socket
import sys
import time
from collections import deque

FULL = 600
KEPT = 4000


def main(host: str, port: str, rate: str, data: str) -> None:
    """Never returns."""
    kept: deque[socket.socket] = deque(maxlen=KEPT)
    began = time.monotonic()
    made = 0
    while True:
        due = began + made / float(rate)
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            sock = socket.create_connection((host, int(port)))
            sock.sendall(bytes.fromhex(data))
        except OSError:
            # The listener is closed, or has dropped this connection already.
            sock = socket.socket()
        kept.append(sock)
        made += 1
        if made == FULL:
            sys.stdout.write("full\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
