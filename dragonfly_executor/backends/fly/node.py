"""A machine with a runner on it, as the parent holds it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.backends.base import GivenUp, Node
from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.deadline import Patience
from dragonfly_executor.backends.fly.errors import FlyAPIError
from dragonfly_executor.backends.fly.machines import ENDED, Exit, Machine
from dragonfly_executor.backends.fly.owner import HELD, HOLD_FOR
from dragonfly_executor.backends.fly.responses import Verdict
from dragonfly_executor.runner import exit_codes

logger = logging.getLogger("dragonfly_executor")

STOP_PATIENCE = 5.0
"""Seconds for destroying a machine that stands in the journal. It counts against ``max`` until then, and a shutdown
waits for it. After that the next sweep goes on."""
UNRECORDED_PATIENCE = 40.0
"""The same without a journal: no sweep goes on then."""
LOOK_PATIENCE = 10.0
RENEW_EVERY = 1200.0
"""Seconds between two claims to a machine. Several may go wrong before the last one ends."""
RENEW_PATIENCE = 30.0
PAUSE = 1.0
"""Seconds until the next look, where Fly does not say how a machine stands."""
UNSEEN = 15.0
"""Seconds for which a machine that was created may not be known to all of Fly's hosts, one of which answers."""
SWALLOWED = (
    "its runner was never started, since the image has an ENTRYPOINT that does not run the command that it is given "
    '(it should end with `exec "$@"`): init={"entrypoint": ["/usr/bin/env"]} takes the place of that ENTRYPOINT'
)
WATCHED = ("stopped", "failed", "destroyed")


class FlyNode(Node):
    """A machine.

    Args:
        api: its app's machines; in use until the node is given back.
        machine: as it was created.
        address: where its runner dials.
        forget: called when the machine is known to be gone.
        abandon: called when it is not; says who destroys it then.
        find: looks for the machine if it is known by its name alone; may raise `FlyAPIError`.
        left: called when it was given back, whatever became of it.
        is_recorded: whether the machine stands in a journal.
    """

    shares_disk = False
    stopper = "Fly (for maintenance of its host, or by `fly machine stop`)"
    stop_advice = "FlyBackend(stop_grace=) gives calls longer"
    renew_every = RENEW_EVERY

    def __init__(
        self,
        api: MachinesAPI,
        machine: Machine,
        address: str,
        forget: Callable[[], None],
        abandon: Callable[[], str],
        find: Callable[[Patience], Machine | None],
        left: Callable[[], object],
        *,
        is_recorded: bool,
    ) -> None:
        self.machine_id = machine.id
        self.facts = {"create": str(machine)}
        self._api = api
        self._seen = machine
        self._is_known = False
        self._known_by = time.monotonic() + UNSEEN
        self._address = address
        self._forget = forget
        self._abandon = abandon
        self._find = find
        self._left = left
        self._is_recorded = is_recorded
        self._lock = threading.Lock()
        self._stopping = GivenUp()
        api.__enter__()

    def __repr__(self) -> str:
        return f"FlyNode({self._seen})"

    def ended(self, wait: float) -> errors.BootError | None:
        """See `Node`."""
        patience = Patience(wait, self._stopping)
        verdict = self._api.wait(self.machine_id, WATCHED, patience)
        if verdict not in (Verdict.OK, Verdict.NOT_FOUND, Verdict.NOT_YET):
            # Fly does not say.
            patience.pause(PAUSE)
        if self._stopping.is_set():
            return None
        try:
            machine = self._api.get(self.machine_id, Patience(LOOK_PATIENCE, self._stopping))
        except FlyAPIError:
            return None
        self._is_known = self._is_known or machine is not None or verdict is Verdict.OK
        if machine is None:
            if self._is_known or time.monotonic() > self._known_by:
                return self._end("is gone")
            patience.pause(PAUSE)
            return None
        self._seen = machine
        return self._end(f"came to the state {machine.state!r}") if machine.state in ENDED else None

    def _end(self, how: str) -> errors.BootError:
        ending = self._seen.exit
        text = f"{self._seen} {how} before its runner had dialed back"
        if ending is not None:
            text = f"{text}: {describe_exit(ending, self._address)}"
        return errors.BootError(text, "start", output=self._seen.standing())

    def output(self) -> str:
        """How the machine stood when it was last looked at. Its log is with Fly: `fly logs` shows it."""
        seen = self._seen
        if seen.state == "started" and seen.exit is None:
            return (
                f"{seen.standing()}. Its runner was to dial {self._address}: is that address reachable from Fly's "
                f"private network (6PN)? Or {SWALLOWED}. What it printed: fly logs -a {self._api.access.app} "
                f"--machine {seen.id}"
            )
        return seen.standing()

    def renew(self) -> None:
        """Write on the machine that its parent still has it: a sweep from elsewhere cannot see that otherwise."""
        if self._stopping.is_set() or not self.machine_id:
            return
        until = int(self._api.now() + HOLD_FOR)
        try:
            self._api.note(self.machine_id, HELD, str(until), Patience(RENEW_PATIENCE, self._stopping))
        except FlyAPIError as error:
            if not self._stopping.is_set():
                logger.warning("could not write on %s that it is still wanted: %s", self._seen, error)

    def stop(self) -> None:
        """Destroy the machine. If that cannot be seen to, the journal says so, and the next sweep goes on with it."""
        with self._lock:
            if self._stopping.is_set():
                return
            self._stopping.set()
        try:
            gone, why = self._destroy()
            if gone:
                self._forget()
                return
            then = self._abandon()
            logger.warning("%s could not be seen to be destroyed: %s. %s", self._seen, why, then)
        except Exception:
            logger.exception("%s may not have been destroyed", self._seen)
        finally:
            self._left()
            self._api.__exit__(None, None, None)

    def _destroy(self) -> tuple[bool, str]:
        patience = Patience(STOP_PATIENCE if self._is_recorded else UNRECORDED_PATIENCE)
        try:
            if not self.machine_id:
                found = self._find(patience)
                if found is None:
                    return False, "Fly does not list it"
                self._seen, self.machine_id = found, found.id
            return self._api.destroy(self.machine_id, patience), "it was told to go, and has not yet"
        except FlyAPIError as error:
            return False, str(error)


def describe_exit(ending: Exit, address: str) -> str:
    """How what ran on a machine ended, and what that means."""
    said = f"exit code {ending.code}"
    if ending.oom_killed:
        return f"{said}, killed for want of memory: give memory_mb= more"
    if ending.error:
        said = f"{said}, {ending.error}"
    if ending.requested:
        said = f"{said}, as somebody had asked for"
    meaning = {
        exit_codes.UNREACHABLE: (
            f"it could not reach the parent at {address}: is that address reachable from Fly's private network (6PN)?"
        ),
        exit_codes.REFUSED: "the parent did not let it in, or not any more",
        exit_codes.EXPIRED: "max_lifetime had passed",
        exit_codes.IDLE: "it had no call for max_idle",
        exit_codes.SILENT: "its agent was silent for too long",
        0: f"the runner itself never ends so: perhaps {SWALLOWED}",
        126: "what starts the runner cannot be run: look at init= and python=",
        127: "what starts the runner is not there: look at init= and python=, and at what the image has",
        1: "look at its log: is dragonfly_executor installed in the image, for the same version of Python?",
    }.get(ending.code)
    return f"{said}: {meaning}" if meaning else said
