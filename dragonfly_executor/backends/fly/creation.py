"""Creation of exactly one machine for one boot, even if responses are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dragonfly_executor import errors
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.boot_deadline import FlyBootDeadline
from dragonfly_executor.backends.fly.client import RETRYABLE, MachinesAPI, failure, persist
from dragonfly_executor.backends.fly.errors import FlyAPIError, OutOfTimeError, RetryableAPIError, describe
from dragonfly_executor.backends.fly.machines import STILL_EXISTS, FlyMachine
from dragonfly_executor.backends.fly.responses import ResponseKind, classify, is_image_missing, taken_by
from dragonfly_executor.backends.label import BOOT

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES_ON_FULL_HOSTS = 3
"""Tries per region. Fly chooses a new host for each try."""
TRIES_ON_MISSING_IMAGE = 5
PAUSE_ON_MISSING_IMAGE = 5.0
"""Seconds. Not every Fly host knows a newly pushed image at once."""
PAUSE_ON_NOTHING = 0.5
"""Seconds until the next search for a machine that is not listed."""
LOOK_FOR_RUNNERS = 1.5
"""Seconds for finding the machine of a runner that has dialed in. After that, only the machine's name is known."""
DOING = "creating a machine"


def wait_for_turn(api: MachinesAPI, deadline: FlyBootDeadline) -> None:
    """Wait until the rate limit allows a create request.

    Raises:
        BootError: the boot was cancelled, or no time is left.
    """
    try:
        api.wait_to_create(deadline)
    except FlyAPIError as error:
        raise errors.BootError(str(error), "create") from error


class MachineCreation:
    """Retries create requests under one unique name. Fly accepts a name once, so a retry reveals an earlier success.

    Args:
        api: the app's machines.
        name: the machine's name.
        boot: the boot id in the machine's metadata, which identifies the machine as the one of this boot.
        make_body: returns the request body for a region.
        regions: regions in order of preference. If there are none, Fly chooses the region.
        size: the machine's size in words, for errors.

    Attributes:
        outcome_unknown: whether a machine may exist although no response confirmed it.
    """

    def __init__(
        self,
        api: MachinesAPI,
        name: str,
        boot: str,
        make_body: Callable[[str | None], Mapping[str, Any]],
        regions: Sequence[str],
        size: str,
    ) -> None:
        self._api = api
        self._name = name
        self._boot = boot
        self._make_body = make_body
        self._regions: list[str | None] = [*regions] or [None]
        self._size = size
        self._place = 0
        self._full_hosts = 0
        self._missing_images = 0
        self._refusals: list[str] = []
        self.outcome_unknown = False

    def run(self, deadline: FlyBootDeadline) -> FlyMachine:
        """Return the created machine. If its runner has dialed in, the machine exists, even if all responses were lost.

        Raises:
            BootError: no machine was created, or that is unknown (`outcome_unknown`). `final` if every retry fails.
        """
        try:
            return persist(lambda: self._attempt(deadline), deadline)
        except FlyAPIError as error:
            if deadline.dialed_in and not deadline.is_given_up:
                return self._of_runner(deadline)
            if deadline.left() <= 0:
                text = f"Fly created no machine within the boot timeout; {error}"
                raise errors.BootTimeoutError(text, "create", final=error.final) from error
            raise errors.BootError(str(error), "create", final=error.final) from error

    def _of_runner(self, deadline: Deadline) -> FlyMachine:
        """Return the machine of a runner that has dialed in."""
        self.outcome_unknown = False
        try:
            found = self.find(deadline.part(LOOK_FOR_RUNNERS))
        except FlyAPIError:
            found = None  # the node looks it up again when it stops
        return found or FlyMachine.unseen(self._name)

    def _attempt(self, deadline: FlyBootDeadline) -> FlyMachine:
        body = self._make_body(self._regions[self._place])
        # In doubt from here on, so that any exception before the response leaves it in doubt.
        was_unknown, self.outcome_unknown = self.outcome_unknown, True
        try:
            reply = self._api.create(body, deadline)
        except OutOfTimeError:
            self.outcome_unknown = was_unknown
            raise
        verdict = classify(reply)
        if verdict is ResponseKind.OK:
            machine = FlyMachine.read(reply.json())
            if machine is not None:
                return machine
            verdict = ResponseKind.AMBIGUOUS
        if verdict is ResponseKind.NAME_TAKEN:
            return self._adopt(taken_by(reply), deadline, describe(reply, DOING))
        if verdict is not ResponseKind.AMBIGUOUS:
            self.outcome_unknown = was_unknown
        # Fly does not document the status for a missing image. It may be 404.
        is_final = verdict in (ResponseKind.FATAL, ResponseKind.NOT_FOUND)
        if is_final and is_image_missing(reply) and self._missing_images < TRIES_ON_MISSING_IMAGE:
            self._missing_images += 1
            missing = RetryableAPIError(describe(reply, DOING), reply.status, ResponseKind.TRANSIENT, reply.request_id)
            missing.after = PAUSE_ON_MISSING_IMAGE
            deadline.refused()
            raise missing
        if verdict in (ResponseKind.HOST_FULL, ResponseKind.CAPACITY, ResponseKind.QUOTA):
            self._move_on(verdict, describe(reply, DOING))
            verdict = ResponseKind.RATE  # so that it is retried
        if verdict in RETRYABLE and not self.outcome_unknown:
            deadline.refused()
        raise failure(reply, verdict, DOING)

    def _move_on(self, verdict: ResponseKind, said: str) -> None:
        """Handle a lack of room: try another host, then another region, then raise."""
        region = self._regions[self._place]
        if verdict is ResponseKind.HOST_FULL:
            self._full_hosts += 1
            if self._full_hosts < TRIES_ON_FULL_HOSTS:
                return
        self._full_hosts = 0
        self._refusals.append(f"{region or 'any region'}: {said}")
        self._place += 1
        if self._place < len(self._regions):
            return
        told = "\n  ".join(self._refusals)
        text = f"Fly has no room for a machine ({self._size}) in any region that may be used:\n  {told}"
        raise FlyAPIError(text, verdict=verdict)

    def _adopt(self, machine_id: str | None, deadline: Deadline, said: str) -> FlyMachine:
        """Return the machine with this name if an earlier try of this boot created it and the response was lost."""
        machine = self.find(deadline) if machine_id is None else self._api.get(machine_id, deadline)
        if machine is None:
            # The machine is gone again, or not visible yet. A retry clears that up.
            raise RetryableAPIError(said, 409, ResponseKind.CONFLICT)
        if machine.metadata is None:
            # The owner is unknown. But the name is random and of this boot, so the machine is probably ours.
            raise FlyAPIError(
                f"{said}; and {machine.standing()}: its metadata is unknown, so it may belong to another boot",
                409,
                ResponseKind.CONFLICT,
            )
        if machine.metadata.get(BOOT) != self._boot:
            self.outcome_unknown = False
            raise FlyAPIError(f"{said}; and that machine belongs to another boot: it is left alone", 409)
        return machine

    # -- with unknown outcome -----------------------------------------------------------------------------------------

    def find(self, deadline: Deadline) -> FlyMachine | None:
        """Return the machine of this boot if Fly lists it, otherwise None.

        Raises:
            FlyAPIError: the machines could not be listed.
        """
        found = self._api.runners(deadline, **{BOOT: self._boot})
        return next((machine for machine in found if machine.name == self._name), None)

    def undo(self, deadline: Deadline, *, may_come_yet: bool = False) -> str:
        """Destroy the machine that this boot may have created.

        Args:
            deadline: the time for all requests.
            may_come_yet: whether the create request may still be in progress. If so, the search repeats until the time
                is over.

        Returns:
            The reason why the machine may still exist; "" if it is gone. A machine that is not found may exist or
            appear later.
        """
        try:
            machine = self.find(deadline)
            while machine is None and may_come_yet and not deadline.is_over:
                deadline.pause(PAUSE_ON_NOTHING)
                machine = self.find(deadline)
            if machine is None:
                return "Fly does not list it"
            return "" if self._api.destroy(machine.id, deadline) else STILL_EXISTS
        except FlyAPIError as error:
            return str(error)
