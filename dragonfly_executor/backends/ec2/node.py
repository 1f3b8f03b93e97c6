"""A runner's instance."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dragonfly_executor.backends.base import CancelToken, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ec2.client import EC2Client
from dragonfly_executor.backends.ec2.errors import EC2Error
from dragonfly_executor.backends.ec2.instances import WITHOUT_RUNNER, EC2Instance
from dragonfly_executor.backends.ec2.leftovers import look, terminate
from dragonfly_executor.errors import BootError

logger = logging.getLogger("dragonfly_executor")

STOP_TIMEOUT = 20.0
"""Seconds for terminating an instance. After that the journal keeps it for a sweep."""
VISIBLE_AFTER = 60.0
"""Seconds after which an instance that EC2 does not know counts as gone."""
LOOK_EVERY = 5.0
"""Seconds between two queries for an instance whose runner has not dialed back yet."""
LOOK_TIMEOUT = 10.0
PAUSE = 1.0
"""Seconds between two tries to terminate an instance that EC2 does not know yet."""
TAIL = 4096


class EC2Node(Node):
    """An instance.

    Args:
        client: EC2.
        instance: the instance, as launched.
        forget, abandon: called at the end of `stop`: if the instance is gone, or if it may still run. `abandon` returns
            as text how the instance gets destroyed.
        then: called last.
    """

    shares_disk = False
    stopper = "EC2 (a spot instance was taken back, max_lifetime was reached, or a person terminated the instance)"
    stop_advice = "EC2Backend(spot=False) keeps EC2 from taking instances back"

    def __init__(
        self,
        client: EC2Client,
        instance: EC2Instance,
        forget: Callable[[], object],
        abandon: Callable[[], str],
        then: Callable[[], object],
    ) -> None:
        self.instance = instance
        self.instance_id = instance.instance_id
        self.host = instance.private_ip or instance.instance_id
        self._client = client
        self._forget = forget
        self._abandon = abandon
        self._then = then
        self._stopped = CancelToken()
        self._known_by = time.monotonic() + VISIBLE_AFTER

    def ended(self, wait: float) -> BootError | None:
        """See `Node.ended`."""
        deadline = Deadline(wait, self._stopped)
        while not deadline.is_over:
            try:
                instance = look(self._client, self.instance_id, Deadline(LOOK_TIMEOUT, self._stopped))
            except EC2Error:
                instance = self.instance  # EC2 does not tell, which proves nothing
            if instance is None and time.monotonic() > self._known_by:
                return BootError(f"{self.instance} is gone", "start")
            if instance is not None and instance.state in WITHOUT_RUNNER:
                return BootError(instance.describe(), "start", output=self.output())
            deadline.pause(LOOK_EVERY)
        return None

    def stop(self) -> None:
        """See `Node.stop`. An instance costs nothing from the moment at which EC2 accepts the request."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        deadline = Deadline(STOP_TIMEOUT)
        why = "EC2 does not know it yet"
        try:
            while not terminate(self._client, self.instance_id, deadline):
                if time.monotonic() > self._known_by:
                    break
                if deadline.is_over:
                    raise EC2Error(why)
                # A new instance may not be visible to all of EC2's servers.
                deadline.pause(PAUSE)
        except EC2Error as error:
            logger.warning("%s may still run: %s. %s", self.instance, error, self._abandon())
        else:
            self._forget()
        finally:
            self._then()

    def output(self) -> str:
        """See `Node.output`: the end of the instance's console."""
        try:
            said = self._client.call("get_console_output", Deadline(LOOK_TIMEOUT), InstanceId=self.instance_id)
        except EC2Error:
            return ""
        return str(said.get("Output", ""))[-TAIL:].strip()
