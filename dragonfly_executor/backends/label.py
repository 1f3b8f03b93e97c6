"""The label of a node: the pool that booted it, its owner, and when the owner's claim ends."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from dragonfly_executor.backends.owner import Owner, is_app_name

PREFIX = "dragonfly_"
KIND = f"{PREFIX}kind"
RUNNER = "runner"
BOOT = f"{PREFIX}boot"
POOL = f"{PREFIX}pool"
OWNER = f"{PREFIX}owner"
EXPIRES = f"{PREFIX}expires"
LIFETIME = f"{PREFIX}lifetime"
APP = f"{PREFIX}app"
HOLD = f"{PREFIX}hold"
HELD = f"{PREFIX}held"
HOLD_FOR = 2 * 3600.0
"""Seconds of a node's lease. A live owner renews it far more often."""


class OwnerLabel(NamedTuple):
    """The owner label: the metadata that a backend writes on its nodes.

    Attributes:
        boot: the unique id of the boot that the node was made for.
        pool: the pool's name.
        owner: the pool's process.
        expires: when the node expires, in seconds since the epoch by the owner's clock. After that it has no owner,
            unless the owner is known to be alive.
        lifetime: seconds from the node's creation to its expiry, in case the clocks differ; 0 if unknown.
        app: the app of the owner's own Fly machine; "" if the owner is not on Fly, or the app is unknown.
        hold: seconds of the first lease, from the node's creation; 0 if the owner does not renew leases.
        held: the end of the last renewed lease, in seconds since the epoch by the platform's clock; 0 if never renewed.
    """

    boot: str
    pool: str
    owner: Owner
    expires: int
    lifetime: int = 0
    app: str = ""
    hold: int = 0
    held: int = 0

    def expires_on(self, created: float | None) -> float:
        """Return the expiry time by the platform's clock; by the owner's clock if `created` is None."""
        return created + self.lifetime if created is not None and self.lifetime else self.expires

    def held_until(self, created: float | None) -> float | None:
        """Return the end of the lease by the platform's clock; None if there is no lease, or its end is unknown."""
        if not self.hold or (created is None and not self.held):
            return None
        return max(self.held, 0.0 if created is None else created + self.hold)

    def encode(self) -> dict[str, str]:
        """Return the label as metadata."""
        more = {APP: self.app, HOLD: str(self.hold or ""), HELD: str(self.held or "")}
        return {
            **{key: value for key, value in more.items() if value},
            KIND: RUNNER,
            BOOT: self.boot,
            POOL: self.pool[:200],
            OWNER: self.owner.encode(),
            EXPIRES: str(self.expires),
            LIFETIME: str(self.lifetime),
        }

    @classmethod
    def decode(cls, metadata: Mapping[str, str] | None) -> OwnerLabel | None:
        """Parse a label from metadata. None if the node is not a runner, or its label is damaged."""
        if not metadata or metadata.get(KIND) != RUNNER:
            return None
        boot, owner = metadata.get(BOOT), Owner.decode(metadata.get(OWNER))
        expires, lifetime = _seconds(metadata.get(EXPIRES, "")), _seconds(metadata.get(LIFETIME, "0"))
        if not boot or owner is None or expires is None or lifetime is None:
            return None
        app, hold, held = metadata.get(APP, ""), *(_seconds(metadata.get(key, "0")) for key in (HOLD, HELD))
        # The app becomes part of a request URL, so it must be well-formed. A damaged lease counts as no lease.
        known = app if is_app_name(app) else ""
        return cls(boot, metadata.get(POOL, ""), owner, expires, lifetime, known, hold or 0, held or 0)


def _seconds(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def node_name(pool: str) -> str:
    """Return a unique node name of lower-case letters, digits and dashes, at most 63 characters long."""
    word = re.sub(r"[^a-z0-9]+", "-", pool.lower())[:24].strip("-")
    return f"dragonfly-{word}-{os.urandom(10).hex()}" if word else f"dragonfly-{os.urandom(10).hex()}"
