"""A program that a test kills: it holds a call with all that it has started on a host.

python -m tests.backends.ssh.program SPEC KNOWN_HOSTS KEY MAILBOX GATE LEASE CONNECT [fork | wait]

CONNECT is as of `SSHBackend`, or "openssh" for that client.
With "wait" it is one that is only stopped for a while, and says on its mailbox how the call and the next one ended.
"""

from __future__ import annotations

import os
import signal
import sys

from dragonfly_executor import DragonflyExecutor, SSHBackend
from tests.backends.ssh.calls import free, hold_with_family


def main(
    spec: str, known_hosts: str, key: str, mailbox: str, gate: str, lease: str, connect: str, more: str = ""
) -> None:
    """Does not return by itself."""
    backend = SSHBackend(
        [spec],
        known_hosts=known_hosts,
        key_filename=key,
        config=None,
        use_agent=False,
        sync=None,
        connect="channel" if connect == "openssh" else connect,
        client="openssh" if connect == "openssh" else "paramiko",
    )
    executor = DragonflyExecutor(backend=backend, lease=float(lease))
    if more == "fork":
        executor.submit(pow, 2, 10).result()
        # A fork of the parent keeps whatever is open.
        if os.fork() == 0:
            signal.pause()
    future = executor.submit(free(hold_with_family(mailbox, gate)))
    if more == "wait":
        error = future.exception()
        with open(mailbox, "w") as box:
            box.write(f"{type(error).__name__} {executor.submit(pow, 2, 10).result()}\n")
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
