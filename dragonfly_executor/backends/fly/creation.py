"""One machine for one boot: not two, and not somebody else's, whatever becomes of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dragonfly_executor import errors
from dragonfly_executor.backends.fly.client import LATER, MachinesAPI, failure, persist
from dragonfly_executor.backends.fly.deadline import BootPatience, Patience
from dragonfly_executor.backends.fly.errors import Again, FlyAPIError, OutOfTimeError, describe
from dragonfly_executor.backends.fly.machines import Machine
from dragonfly_executor.backends.fly.owner import BOOT
from dragonfly_executor.backends.fly.responses import Verdict, classify, is_image_missing, taken_by

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES_ON_FULL_HOSTS = 3
"""A host is chosen anew for each try."""
TRIES_ON_MISSING_IMAGE = 5
PAUSE_ON_MISSING_IMAGE = 5.0
"""Seconds: an image that was pushed just now is not known everywhere at once."""
PAUSE_ON_NOTHING = 0.5
"""Seconds until a machine that is not listed is looked for again."""
LOOK_FOR_RUNNERS = 1.5
"""Seconds for finding the machine of a runner that is there, before it is known by its name alone."""
DOING = "creating a machine"


def wait_for_turn(api: MachinesAPI, patience: BootPatience) -> None:
    """Wait until Fly may be asked for a machine.

    Raises:
        BootError: nobody wants it any more, or there is no time left.
    """
    try:
        api.wait_to_create(patience)
    except FlyAPIError as error:
        raise errors.BootError(str(error), "create") from error


class Creation:
    """Asks for a machine until there is one, under one name: Fly lets a name be used once, and so says what is there.

    Args:
        api: the app's machines.
        name: of the machine.
        boot: what stands in its metadata, by which it is known that it is this one.
        make_body: the request, for a region.
        regions: in order of preference; none lets Fly choose.
        size: for errors.

    Attributes:
        in_doubt: whether there may be a machine of which nothing is known.
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
        self.in_doubt = False

    def run(self, patience: BootPatience) -> Machine:
        """The machine. Once its runner has dialed in there is one, whatever becomes of Fly's answers.

        Raises:
            BootError: there is none, or (`in_doubt`) nobody knows; `final` where Fly's answer is.
        """
        try:
            return persist(lambda: self._attempt(patience), patience)
        except FlyAPIError as error:
            if patience.dialed_in and not patience.given_up:
                return self._of_runner(patience)
            if patience.left() <= 0:
                text = f"no machine was created in the time that a boot has; {error}"
                raise errors.BootTimeoutError(text, "create", final=error.final) from error
            raise errors.BootError(str(error), "create", final=error.final) from error

    def _of_runner(self, patience: Patience) -> Machine:
        """The machine of a runner that is there."""
        self.in_doubt = False
        try:
            found = self.find(patience.part(LOOK_FOR_RUNNERS))
        except FlyAPIError:
            found = None  # it is looked for again when it is given back
        return found or Machine.unseen(self._name)

    def _attempt(self, patience: BootPatience) -> Machine:
        body = self._make_body(self._regions[self._place])
        # Whatever comes between the question and the answer.
        was_in_doubt, self.in_doubt = self.in_doubt, True
        try:
            reply = self._api.create(body, patience)
        except OutOfTimeError:
            self.in_doubt = was_in_doubt
            raise
        verdict = classify(reply)
        if verdict is Verdict.OK:
            machine = Machine.read(reply.json())
            if machine is not None:
                return machine
            verdict = Verdict.AMBIGUOUS
        if verdict is Verdict.NAME_TAKEN:
            return self._adopt(taken_by(reply), patience, describe(reply, DOING))
        if verdict is not Verdict.AMBIGUOUS:
            self.in_doubt = was_in_doubt
        # With which status is not known: 404 would be no wonder.
        is_final = verdict in (Verdict.FATAL, Verdict.NOT_FOUND)
        if is_final and is_image_missing(reply) and self._missing_images < TRIES_ON_MISSING_IMAGE:
            self._missing_images += 1
            missing = Again(describe(reply, DOING), reply.status, Verdict.TRANSIENT, reply.request_id)
            missing.after = PAUSE_ON_MISSING_IMAGE
            patience.refused()
            raise missing
        if verdict in (Verdict.HOST_FULL, Verdict.CAPACITY, Verdict.QUOTA):
            self._move_on(verdict, describe(reply, DOING))
            verdict = Verdict.RATE  # that is: ask again
        if verdict in LATER and not self.in_doubt:
            patience.refused()
        raise failure(reply, verdict, DOING)

    def _move_on(self, verdict: Verdict, said: str) -> None:
        """There is no room: try another host, then another region, then say so."""
        region = self._regions[self._place]
        if verdict is Verdict.HOST_FULL:
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

    def _adopt(self, machine_id: str | None, patience: Patience, said: str) -> Machine:
        """A machine has the name: it is this one if a try went through whose answer was lost."""
        machine = self.find(patience) if machine_id is None else self._api.get(machine_id, patience)
        if machine is None:
            # It is gone again, or not to be seen yet: that will show.
            raise Again(said, 409, Verdict.CONFLICT)
        if machine.metadata is None:
            # Nobody can say whose it is. But the name has been drawn for this boot, so it may well be ours.
            raise FlyAPIError(f"{said}; and {machine.standing()}: its metadata is not known", 409, Verdict.CONFLICT)
        if machine.metadata.get(BOOT) != self._boot:
            self.in_doubt = False
            raise FlyAPIError(f"{said}; and that machine is not of this boot: it is left alone", 409)
        return machine

    # -- where it ended in doubt --------------------------------------------------------------------------------------

    def find(self, patience: Patience) -> Machine | None:
        """The machine of this boot, as far as Fly lists it.

        Raises:
            FlyAPIError: Fly does not list anything.
        """
        found = self._api.runners(patience, **{BOOT: self._boot})
        return next((machine for machine in found if machine.name == self._name), None)

    def undo(self, patience: Patience, *, may_come_yet: bool = False) -> str:
        """Destroy what may have come of it.

        Args:
            patience: for all of it.
            may_come_yet: whether Fly may still be at it. Then it is looked for as long as there is patience.

        Returns:
            Why that is not known to be gone; "" if it is. That nothing was found is no proof that nothing is there, or
            comes.
        """
        try:
            machine = self.find(patience)
            while machine is None and may_come_yet and not patience.over:
                patience.pause(PAUSE_ON_NOTHING)
                machine = self.find(patience)
            if machine is None:
                return "it is not to be found"
            return "" if self._api.destroy(machine.id, patience) else "it was told to go, and has not yet"
        except FlyAPIError as error:
            return str(error)
