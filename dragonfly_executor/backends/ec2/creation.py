"""Launches one instance for one boot, whatever answers are lost, and walks through types and zones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ec2.client import EC2Client
from dragonfly_executor.backends.ec2.errors import EC2Error
from dragonfly_executor.backends.ec2.instances import OVER, EC2Instance, instances_of
from dragonfly_executor.backends.ec2.launch import Candidate, LaunchSettings
from dragonfly_executor.errors import BootError


class InstanceLaunch:
    """The launch of one instance.

    Args:
        client: EC2.
        settings: the settings of all instances.
        name: the instance's name, which no other instance has.
        script: its user data.
        tags: its tags.

    Attributes:
        may_exist: True while a request may have launched an instance of which no answer has arrived.
    """

    def __init__(
        self, client: EC2Client, settings: LaunchSettings, name: str, script: str, tags: Mapping[str, str]
    ) -> None:
        self._client = client
        self._settings = settings
        self._name = name
        self._script = script
        self._tags = {**tags, "Name": name}
        self.may_exist = False

    def run(self, candidates: Sequence[Candidate], deadline: Deadline) -> EC2Instance:
        """Launch an instance of the first candidate that has room.

        Raises:
            BootError: there is no instance, or `may_exist` is True.
        """
        refusals: list[str] = []
        for number, candidate in enumerate(candidates):
            # A token belongs to the request's parameters: EC2 refuses other parameters with the same token.
            request = self._settings.request(candidate, f"{self._name}-{number}", self._script, self._tags)
            try:
                answer = self._client.call("run_instances", deadline, **request)
            except EC2Error as error:
                self.may_exist = error.may_have_happened
                refusals.append(f"{candidate}: {error}")
                if not error.is_no_room or self.may_exist:
                    raise BootError("; ".join(refusals), "create", final=error.is_final) from error
                continue
            (said,) = answer["Instances"]
            return EC2Instance.read(said)
        raise BootError(f"EC2 has no room: {'; '.join(refusals)}", "create")

    def undo(self, deadline: Deadline) -> str:
        """Destroy the instance of a request whose answer was lost. Return "", or why an instance may still exist."""
        filters = [{"Name": "tag:Name", "Values": [self._name]}]
        try:
            found = [*instances_of(self._client.pages("describe_instances", deadline, Filters=filters))]
            left = [one.instance_id for one in found if one.state not in OVER]
            if left:
                self._client.call("terminate_instances", deadline, InstanceIds=left)
        except EC2Error as error:
            return str(error)
        return "" if found else "EC2 may still carry out the request"
