"""A host behind a fault proxy, and a boot that is caught at each of its stages.

Where the rows of the failure checklist that concern networks are shown over real SSH:

| rows | what | where |
|---|---|---|
| 16, 17 | versions that do not fit | test_boot_failures (17 cannot be: both ends run what the parent has sent) |
| 18, 19 | half-open links, busy and idle | test_call_faults, test_boot_faults, test_life (a cable is pulled) |
| 20, 65 | frozen runners, what comes late | test_life, test_call_faults |
| 21 to 23 | at most once, retries, what never left | test_call_faults |
| 38 to 40 | what calls start, the GIL, limits and cancels | test_call_faults, test_life |
| 41 to 43 | gigabytes, lies about lengths | not SSH's: tests/processes/calls, tests/unit/core |
| 44 | bits that turn over | test_boot_faults, test_call_faults: SSH's MAC catches them |
| 45, 46, 69 | who listens | nobody does: tests/processes/dialback |
| 47, 48 | thin ways, parents that do not read | test_call_faults |
| 52, 53 | sleep, clocks | test_life, test_rough_hosts |
| 54 | links that drop | test_life, test_boot_faults, test_call_faults, test_rough_hosts |
| 55, 57 | host keys, secrets | test_host_keys, test_reach, test_life |
| 56 | hosts that cannot | test_boot_failures, test_bootstrap, test_rough_hosts |
| 58, 59 | cloud APIs | not SSH's |
| 63 | what calls print and close | test_life, test_boot_failures |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import paramiko
import pytest

from dragonfly_executor import SSHBackend
from dragonfly_executor.backends.ssh import paramiko_session
from dragonfly_executor.backends.ssh.auth import Credentials
from dragonfly_executor.backends.ssh.bootstrap import Bootstrap
from dragonfly_executor.backends.ssh.paramiko_connect import Connector
from dragonfly_executor.sync.sender import Sender
from tests.support.fault_proxy import FaultProxy
from tests.support.helpers import SOON, all_ended, watching
from tests.support.sshd.host import Host, public_half

STAGES: dict[str, tuple[tuple[Any, str], set[str]]] = {
    "key exchange": ((Connector, "_agree"), {"connect"}),
    "auth": ((Credentials, "log_in"), {"auth"}),
    "session": ((paramiko_session, "_open_channel"), {"bootstrap"}),
    "command": ((paramiko.Channel, "exec_command"), {"bootstrap"}),
    "bootstrap": ((Bootstrap, "hear"), {"bootstrap"}),
    "archive": ((Bootstrap, "run"), {"bootstrap"}),
    "handshake": ((SSHBackend, "boot"), {"handshake", "sync"}),
    "sync": ((Sender, "update"), {"sync"}),
}
"""By name: what the parent calls when a boot comes to it (the handshake begins where the backend has done its part),
and the phases that an error may tell then."""


class FaultyConnection(FaultProxy):
    """The way to a host, and what is wrong with it."""

    def __init__(self, host: Host) -> None:
        super().__init__((host.address, host.port))
        self.host = host

    @property
    def spec(self) -> str:
        """As a user would write it."""
        return f"127.0.0.1:{self.port}"

    @property
    def known_as(self) -> str:
        """The host's line in a known_hosts file, by the name that it has here."""
        return f"[127.0.0.1]:{self.port} {public_half(self.host.key)}\n"


def at_stage(monkeypatch: pytest.MonkeyPatch, stage: str, action: Callable[[], object]) -> None:
    """Act whenever a boot comes to this stage."""
    (owner, name), _ = STAGES[stage]
    original = getattr(owner, name)

    def before(*args: Any, **kwargs: Any) -> Any:
        action()
        return original(*args, **kwargs)

    def after(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        action()
        return found

    monkeypatch.setattr(owner, name, after if stage == "handshake" else before)


def nothing_stays(host: Host) -> None:
    """Fails unless all that runs on the host ends soon, however little of the network works."""
    with watching(*host.processes(), may_be_gone=True) as watches:
        assert all_ended(watches, SOON), [Path(f"/proc/{watch.pid}/cmdline").read_bytes() for watch in watches]
