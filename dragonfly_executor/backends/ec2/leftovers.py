"""The instances of pools, found by their tags and by the journal."""

from __future__ import annotations

import time
from collections.abc import Iterable

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ec2.client import EC2Client
from dragonfly_executor.backends.ec2.errors import NOT_FOUND, EC2Error
from dragonfly_executor.backends.ec2.instances import LIVE, OVER, EC2Instance, instances_of
from dragonfly_executor.backends.ec2.prices import EC2Prices
from dragonfly_executor.backends.found_node import FoundNode, SweepResult
from dragonfly_executor.backends.journal import Journal, JournalEntry
from dragonfly_executor.backends.label import KIND, RUNNER, OwnerLabel
from dragonfly_executor.backends.leftovers import Leftovers, ListedNode


class EC2Leftovers:
    """The instances of pools in one region, and with one set of credentials.

    Args:
        client: EC2.
        journal: the journal, or None.
        place: the region and the credentials, as the journal names them.
        prices: the price list.
    """

    def __init__(self, client: EC2Client, journal: Journal | None, place: str, prices: EC2Prices) -> None:
        self._client = client
        self._place = place
        self._prices = prices
        self._found = Leftovers(journal, place)

    def entry(self, name: str, label: OwnerLabel) -> JournalEntry:
        """Return the journal entry for an instance that is about to be launched."""
        return JournalEntry(name, self._place, label, time.time(), float(label.expires))

    def find(self, deadline: Deadline) -> list[FoundNode]:
        """Return all instances of pools, of any process.

        Raises:
            EC2Error: EC2 does not list its instances.
        """
        filters = [
            {"Name": f"tag:{KIND}", "Values": [RUNNER]},
            {"Name": "instance-state-name", "Values": [*LIVE]},
        ]
        pages = self._client.pages("describe_instances", deadline, Filters=filters)
        listed = [self._listed(instance) for instance in instances_of(pages)]

        def look_up(instance_id: str) -> ListedNode | None:
            """Return an instance that EC2's list may lack."""
            instance = look(self._client, instance_id, deadline)
            return None if instance is None or instance.state in OVER else self._listed(instance)

        return self._found.find(listed, look_up, self._client.now())

    def destroy(self, nodes: Iterable[FoundNode], deadline: Deadline) -> SweepResult[FoundNode]:
        """Terminate these instances."""

        def destroy(instance_id: str) -> str:
            """Terminate an instance. EC2 accepts the request, and the instance costs nothing from then on."""
            terminate(self._client, instance_id, deadline)
            return ""

        return self._found.destroy(nodes, destroy)

    def sweep(self, deadline: Deadline) -> SweepResult[FoundNode]:
        """Terminate the instances of pools that are gone.

        Raises:
            EC2Error: EC2 does not list its instances.
        """
        return self.destroy([node for node in self.find(deadline) if node.is_orphan], deadline)

    def _listed(self, instance: EC2Instance) -> ListedNode:
        price = self._prices.per_second(instance.instance_type, self._client.region, is_spot=instance.is_spot)
        return ListedNode(
            instance.name, instance.instance_id, instance.state, instance.label, instance.launched, instance.zone, price
        )


def look(client: EC2Client, instance_id: str, deadline: Deadline) -> EC2Instance | None:
    """Return an instance; None if EC2 does not know it.

    Raises:
        EC2Error: EC2 does not tell.
    """
    try:
        pages = client.pages("describe_instances", deadline, InstanceIds=[instance_id])
        return next(instances_of(pages), None)
    except EC2Error as error:
        if error.code in NOT_FOUND:
            return None
        raise


def terminate(client: EC2Client, instance_id: str, deadline: Deadline) -> bool:
    """Terminate an instance. Return True once EC2 has accepted that, and False if it does not know the instance.

    Raises:
        EC2Error: the instance may still run.
    """
    try:
        client.call("terminate_instances", deadline, InstanceIds=[instance_id])
    except EC2Error as error:
        if error.code in NOT_FOUND:
            return False
        raise
    return True
