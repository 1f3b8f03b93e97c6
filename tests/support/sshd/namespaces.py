"""Network namespaces for hosts, each with a virtual cable that a test can disconnect."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from itertools import count

from tests.support.sshd.host import find


def missing() -> str | None:
    """Return why no namespace can be made here; None if one can."""
    if os.getuid() != 0:
        return "only root can make network namespaces"
    if find("ip") is None:
        return "no ip here: install iproute2"
    name = f"dragonfly-probe-{os.getpid()}"
    made = subprocess.run([str(find("ip")), "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    ip("netns", "del", name)
    return None


def ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run([str(find("ip")), *words], check=True, capture_output=True, stdin=subprocess.DEVNULL)


class Namespace:
    """A network namespace, with a virtual cable to the namespace of this process.

    Attributes:
        address: its end of the cable.
        ours: the other end, by which it reaches this one.
        within: the command that runs another one in it.
    """

    _numbers = count(os.getpid() % 200 * 8)

    def __init__(self) -> None:
        number = next(self._numbers) % (250 * 64)
        self.name = f"dragonfly-{os.getpid()}-{number}"
        self._cable = f"df{os.getpid() % 100000}n{number % 1000}"
        # From the block that is set aside for tests of networks (RFC 2544).
        net = f"198.18.{number // 64}.{number % 64 * 4}".rsplit(".", 1)
        self.ours, self.address = (f"{net[0]}.{int(net[1]) + end}" for end in (1, 2))
        self.within = [str(find("ip")), "netns", "exec", self.name]
        ip("netns", "add", self.name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("addr", "add", f"{self.ours}/30", "dev", self._cable)
        ip("link", "set", self._cable, "up")
        for words in (("addr", "add", f"{self.address}/30", "dev", "eth0"), ("link", "set", "eth0", "up")):
            ip("-n", self.name, *words)

    def cut(self) -> None:
        """Disconnect the cable. Neither end gets a FIN or a RST."""
        ip("-n", self.name, "link", "set", "eth0", "down")

    def close(self) -> None:
        """Remove the namespace."""
        with suppress(subprocess.CalledProcessError):
            ip("link", "del", self._cable)
        ip("netns", "del", self.name)
