"""Instances as EC2 describes them. Any field may be missing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from dragonfly_executor.backends.label import OwnerLabel

LIVE = ("pending", "running", "stopping", "stopped")
"""States of an instance that costs money, or can do so again. A stopped instance still has its disks."""
OVER = frozenset({"shutting-down", "terminated"})
"""States of an instance that is destroyed, or is about to be. It costs nothing more."""
WITHOUT_RUNNER = OVER | {"stopping", "stopped"}


class EC2Instance(NamedTuple):
    """An instance.

    Attributes:
        instance_id: EC2's id.
        state: EC2's word.
        instance_type, zone, private_ip: "" if missing.
        launched: when it was launched, in seconds since the epoch; None if missing.
        tags: its tags.
        is_spot: whether it is a spot instance.
        reason: why it is in this state, in EC2's words; "" if EC2 does not say.
    """

    instance_id: str
    state: str
    instance_type: str
    zone: str
    private_ip: str
    launched: float | None
    tags: Mapping[str, str]
    is_spot: bool
    reason: str

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> EC2Instance:
        """Parse an instance of an answer."""
        launched = said.get("LaunchTime")
        reason = said.get("StateReason") or {}
        return cls(
            instance_id=said["InstanceId"],
            state=said.get("State", {}).get("Name", ""),
            instance_type=said.get("InstanceType", ""),
            zone=said.get("Placement", {}).get("AvailabilityZone", ""),
            private_ip=said.get("PrivateIpAddress", ""),
            launched=launched.timestamp() if isinstance(launched, datetime) else None,
            tags={tag.get("Key", ""): tag.get("Value", "") for tag in said.get("Tags", ())},
            is_spot=said.get("InstanceLifecycle") == "spot",
            reason=reason.get("Message") or said.get("StateTransitionReason") or "",
        )

    @property
    def name(self) -> str:
        """Return the name, which the backend wrote into a tag; "" if there is none."""
        return self.tags.get("Name", "")

    @property
    def label(self) -> OwnerLabel | None:
        """Return the owner label in the tags; None if there is none."""
        return OwnerLabel.decode(self.tags)

    def __str__(self) -> str:
        return f"instance {self.instance_id} ({self.instance_type} in {self.zone})"

    def describe(self) -> str:
        """Return the state in words."""
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self} is {self.state}{reason}"


def instances_of(pages: Iterable[Mapping[str, Any]]) -> Iterator[EC2Instance]:
    """Yield the instances in answers of ``describe_instances``."""
    for page in pages:
        for reservation in page.get("Reservations", ()):
            yield from (EC2Instance.read(said) for said in reservation.get("Instances", ()))
