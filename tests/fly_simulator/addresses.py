"""Addresses as machines have them: of the private network where they may be added to loopback, else `::1`.

Each simulator draws a network of its own, so several on one computer do not meet. The kernel forgets the addresses of a
simulator that was killed after an hour.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess

LIFETIME = 3600
PREFIX = "fdaa"


class Addresses:
    """Gives addresses out and takes them back.

    Attributes:
        reason: why there are none of the private network; None if there are.
    """

    def __init__(self) -> None:
        draw = random.SystemRandom()
        self._network = f"{draw.randrange(1, 0xFFFF):x}:{draw.randrange(1, 0xFFFF):x}"
        self._count = 0
        self._given: list[str] = []
        self._ip = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        self.reason = self._try()

    def _try(self) -> str | None:
        if os.getuid() != 0:
            return "only root can add addresses to loopback"
        if self._ip is None:
            return "no ip here: install iproute2"
        address = self._next()
        added = self._run("add", address)
        if added.returncode != 0:
            return f"no address can be added to loopback: {added.stderr.strip()}"
        self._run("del", address)
        return None

    def give(self) -> str:
        """An address that is on loopback now."""
        if self.reason is not None:
            return "::1"
        address = self._next()
        added = self._run("add", address)
        if added.returncode != 0:
            raise OSError(f"{address} could not be added to loopback: {added.stderr.strip()}")
        self._given.append(address)
        return address

    def take_back(self, address: str) -> None:
        """It is on loopback no more: as with a machine that has stopped."""
        if address in self._given:
            self._given.remove(address)
            self._run("del", address)

    def close(self) -> None:
        """All are taken back."""
        for address in tuple(self._given):
            self.take_back(address)

    def _next(self) -> str:
        # 16 bits fdaa, 32 the network, 32 the host, 32 the machine, and a /112 of its own (reference 3.2).
        self._count += 1
        return f"{PREFIX}:{self._network}:a7b:{self._count & 0xFFFF:x}:0:1:2"

    def _run(self, verb: str, address: str) -> subprocess.CompletedProcess[str]:
        lifetime = ["valid_lft", str(LIFETIME), "preferred_lft", str(LIFETIME), "nodad"] if verb == "add" else []
        return subprocess.run(
            [str(self._ip), "-6", "addr", verb, f"{address}/112", "dev", "lo", *lifetime],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
