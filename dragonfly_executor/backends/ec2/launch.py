"""The request that launches an instance, and the script that the instance runs. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

from dragonfly_executor.protocol.parent import VARIABLE

OWN = frozenset({
    "ClientToken", "DryRun", "InstanceInitiatedShutdownBehavior", "InstanceType", "MaxCount", "MinCount", "UserData",
})  # fmt: skip
"""Parameters that the backend sets itself. With a user's value, it cannot find and end its instances."""
MAX_USER_DATA = 16 * 1024
"""Bytes of user data at most, by EC2's rules."""
LIFETIME_SLACK = 600.0
"""Seconds by which the instance's own timer is later than the runner's, so that the runner can say why it ends."""
NOTHING_TO_LAUNCH = "EC2Backend has neither image= nor launch_template=, so it cannot boot"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Candidate(NamedTuple):
    """A type of instance and a place, to be tried for one boot.

    Attributes:
        instance_type: the type; "" for the launch template's.
        subnet, zone: where; "" for any.
    """

    instance_type: str
    subnet: str
    zone: str

    def __str__(self) -> str:
        where = self.subnet or self.zone
        return f"{self.instance_type or 'the template'}{f' in {where}' if where else ''}"


def places(subnets: Sequence[str], zones: Sequence[str]) -> list[tuple[str, str]]:
    """Return the places in order of preference, each as a subnet and a zone, of which one or both are ""."""
    return [(subnet, "") for subnet in subnets] or [("", zone) for zone in zones] or [("", "")]


def candidates(types: Sequence[str], where: Sequence[tuple[str, str]]) -> list[Candidate]:
    """Return the pairs of types and places, in order of preference: each type in all places, then the next type.

    Args:
        types: the types; empty for the launch template's.
        where: the places.
    """
    return [Candidate(name, *place) for name in (types or [""]) for place in where]


class LaunchSettings(NamedTuple):
    """The settings that all instances of a backend share; see `EC2Backend`.

    Attributes:
        image, key_name, instance_profile, security_groups, spot, env, setup, tags: see `EC2Backend`.
        template: the launch template, as EC2's parameter; empty for none.
        command: the command that starts the runner.
        notice_command: the command that waits for a spot instance's notice.
        max_lifetime: seconds.
        more: merged over the request.
    """

    image: str
    template: Mapping[str, str]
    security_groups: tuple[str, ...]
    instance_profile: str
    key_name: str
    spot: bool
    env: Mapping[str, str]
    setup: str
    tags: Mapping[str, str]
    command: tuple[str, ...]
    notice_command: tuple[str, ...]
    max_lifetime: float
    more: Mapping[str, Any]

    def request(self, candidate: Candidate, token: str, script: str, tags: Mapping[str, str]) -> dict[str, Any]:
        """Return the arguments of ``run_instances``.

        Args:
            candidate: the type and the place.
            token: the client token: EC2 launches one instance for all requests that have it.
            script: the instance's user data.
            tags: the instance's tags.
        """
        placement = {"AvailabilityZone": candidate.zone} if candidate.zone else {}
        written = [{"Key": key, "Value": value} for key, value in {**self.tags, **tags}.items()]
        profile = "Arn" if self.instance_profile.startswith("arn:") else "Name"
        optional = {
            "ImageId": self.image,
            "LaunchTemplate": self.template,
            "InstanceType": candidate.instance_type,
            "SubnetId": candidate.subnet,
            "Placement": placement,
            "SecurityGroupIds": [*self.security_groups],
            "IamInstanceProfile": {profile: self.instance_profile} if self.instance_profile else {},
            "KeyName": self.key_name,
            "InstanceMarketOptions": _SPOT if self.spot else {},
        }
        return {
            **{name: value for name, value in optional.items() if value},
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
            **self.more,
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": token,
            "UserData": script,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "TagSpecifications": [{"ResourceType": kind, "Tags": written} for kind in ("instance", "volume")],
        }

    def script(self, parent: str) -> str:
        """Return the user data: a script that cloud-init runs once, as root.

        Args:
            parent: the value of DRAGONFLY_PARENT.

        Raises:
            ValueError: it is too long for EC2.
        """
        env = {**self.env, VARIABLE: parent}
        # The token stands in the runner's environment alone, not in that of the shell and its other children.
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in env.items())
        minutes = ceil((self.max_lifetime + LIFETIME_SLACK) / 60)
        lines = [
            "#!/bin/sh",
            # Both timers end in "terminate": the instance's shutdown behavior.
            f"shutdown -h +{minutes}",
            *([self.setup] if self.setup else []),
            f"{given} {shlex.join(self.command)} &",
            "runner=$!",
            *([f'{shlex.join(self.notice_command)} "$runner" &'] if self.spot else []),
            'wait "$runner"',
            'echo "dragonfly_executor: the runner ended with status $?"',
            "shutdown -h now",
        ]
        script = "\n".join(lines) + "\n"
        size = len(script.encode())
        if size > MAX_USER_DATA:
            raise ValueError(f"setup= and env= make {size} bytes of user data, and EC2 takes {MAX_USER_DATA} at most")
        return script


_SPOT = {
    "MarketType": "spot",
    "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
}


def check_more(more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's parameters of ``run_instances``. ValueError for one that the backend sets itself."""
    for name in more:
        if name in OWN or name == "TagSpecifications":
            raise ValueError(f"EC2Backend sets the parameter {name} itself: leave it out of options=")
    return dict(more)


def check_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for the runners. ValueError for a name that a shell does not take."""
    for name in env:
        if not _VARIABLE.fullmatch(name) or name == VARIABLE:
            raise ValueError(f"env= has the name {name!r}, which no runner can get")
    return dict(env)


def template_of(template: str) -> dict[str, str]:
    """Return a launch template as EC2's parameter, from ``NAME_OR_ID`` or ``NAME_OR_ID:VERSION``."""
    name, _, version = template.partition(":")
    key = "LaunchTemplateId" if name.startswith("lt-") else "LaunchTemplateName"
    return {key: name, "Version": version or "$Default"} if name else {}
