"""The home of a user who reaches hosts by names of their own, as most users do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.sshd.host import Host


def make_home(folder: Path, key: Path, hosts: Mapping[str, Host]) -> Path:
    """Make a home whose `.ssh` names these hosts, knows their keys, and has the user's key. Return the folder."""
    ssh = folder / ".ssh"
    ssh.mkdir(parents=True)
    (ssh / "config").write_text(
        "".join(
            f"Host {name}\n  HostName {host.address}\n  Port {host.port}\n  IdentityFile {key}\n  IdentitiesOnly yes\n"
            for name, host in hosts.items()
        )
    )
    (ssh / "known_hosts").write_text("".join(host.known_as for host in hosts.values()))
    return folder
