"""`FlyNode`: a machine with a runner, as the parent holds it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.backends.base import CancelToken, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.errors import FlyAPIError
from dragonfly_executor.backends.fly.machines import ENDED, STILL_EXISTS, FlyMachine, MachineExit
from dragonfly_executor.backends.fly.responses import ResponseKind
from dragonfly_executor.backends.label import HELD, HOLD_FOR
from dragonfly_executor.runner import exit_codes

logger = logging.getLogger("dragonfly_executor")

STOP_TIMEOUT = 5.0
"""Seconds for destroying a journaled machine, before it is left to the next sweep.

Until then the machine counts toward ``max``, and a shutdown waits."""
UNRECORDED_TIMEOUT = 40.0
"""Seconds for destroying a machine without a journal, as then no sweep follows."""
LOOK_TIMEOUT = 10.0
RENEW_EVERY = 1200.0
"""Seconds between two renewals of a machine's lease. Several may fail before the lease ends."""
RENEW_TIMEOUT = 30.0
PAUSE = 1.0
"""Seconds until the next poll if Fly does not report the machine's state."""
UNSEEN = 15.0
"""Seconds after its creation in which a machine may be unknown to some of Fly's hosts, any of which may answer."""
ENTRYPOINT_HINT = (
    "its runner was never started, since the image's ENTRYPOINT does not run the command that it is given "
    '(it should end with `exec "$@"`): init={"entrypoint": ["/usr/bin/env"]} replaces that ENTRYPOINT'
)
WATCHED = ("stopped", "failed", "destroyed")


class FlyNode(Node):
    """A Fly machine.

    Args:
        api: the machines of its app. It is in use until the node is stopped.
        machine: the machine as created.
        address: the address that its runner dials.
        forget: called when the machine is known to be gone.
        abandon: called when the machine may still exist. Returns as text how the machine gets destroyed.
        find: looks the machine up if only its name is known. May raise `FlyAPIError`.
        left: called when the node was stopped, whether or not the machine is gone.
        is_recorded: whether the machine is in a journal.
    """

    shares_disk = False
    stopper = "Fly (for maintenance of its host, or by `fly machine stop`)"
    stop_advice = "FlyBackend(stop_grace=) gives calls longer"
    renew_every = RENEW_EVERY

    def __init__(
        self,
        api: MachinesAPI,
        machine: FlyMachine,
        address: str,
        forget: Callable[[], None],
        abandon: Callable[[], str],
        find: Callable[[Deadline], FlyMachine | None],
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
        self._stopping = CancelToken()
        api.__enter__()

    def __repr__(self) -> str:
        return f"FlyNode({self._seen})"

    def ended(self, wait: float) -> errors.BootError | None:
        """Wait for the machine to end, and return the error of a machine that did; see `Node`."""
        deadline = Deadline(wait, self._stopping)
        verdict = self._api.wait(self.machine_id, WATCHED, deadline)
        if verdict not in (ResponseKind.OK, ResponseKind.NOT_FOUND, ResponseKind.NOT_YET):
            # Fly has not reported the state.
            deadline.pause(PAUSE)
        if self._stopping.is_set():
            return None
        try:
            machine = self._api.get(self.machine_id, Deadline(LOOK_TIMEOUT, self._stopping))
        except FlyAPIError:
            return None
        self._is_known = self._is_known or machine is not None or verdict is ResponseKind.OK
        if machine is None:
            if self._is_known or time.monotonic() > self._known_by:
                return self._end("is gone")
            deadline.pause(PAUSE)
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
        """Return the machine's state as last seen. Fly has its log: `fly logs` shows it."""
        seen = self._seen
        if seen.state == "started" and seen.exit is None:
            return (
                f"{seen.standing()}. Its runner should dial {self._address}: is that address reachable from Fly's "
                f"private network (6PN)? Or {ENTRYPOINT_HINT}. Its output: fly logs -a {self._api.access.app} "
                f"--machine {seen.id}"
            )
        return seen.standing()

    def renew(self) -> None:
        """Renew the lease on the machine, as a sweep from another host cannot see that the parent is alive."""
        if self._stopping.is_set() or not self.machine_id:
            return
        until = int(self._api.now() + HOLD_FOR)
        try:
            self._api.note(self.machine_id, HELD, str(until), Deadline(RENEW_TIMEOUT, self._stopping))
        except FlyAPIError as error:
            if not self._stopping.is_set():
                logger.warning("could not renew the claim on %s: %s", self._seen, error)

    def stop(self) -> None:
        """Destroy the machine. If that is not confirmed, mark its journal entry, so that the next sweep destroys it."""
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
            logger.warning("the destruction of %s could not be confirmed: %s. %s", self._seen, why, then)
        except Exception:
            logger.exception("%s may not have been destroyed", self._seen)
        finally:
            self._left()
            self._api.__exit__(None, None, None)

    def _destroy(self) -> tuple[bool, str]:
        deadline = Deadline(STOP_TIMEOUT if self._is_recorded else UNRECORDED_TIMEOUT)
        try:
            if not self.machine_id:
                found = self._find(deadline)
                if found is None:
                    return False, "Fly does not list it"
                self._seen, self.machine_id = found, found.id
            return self._api.destroy(self.machine_id, deadline), STILL_EXISTS
        except FlyAPIError as error:
            return False, str(error)


def describe_exit(ending: MachineExit, address: str) -> str:
    """Return an exit of a machine's main process as text, with its meaning."""
    said = f"exit code {ending.code}"
    if ending.oom_killed:
        return f"{said}, killed because its memory was full: raise memory_mb="
    if ending.error:
        said = f"{said}, {ending.error}"
    if ending.requested:
        said = f"{said}, after a request to stop it"
    meaning = {
        exit_codes.UNREACHABLE: (
            f"it could not reach the parent at {address}: is that address reachable from Fly's private network (6PN)?"
        ),
        exit_codes.REFUSED: "the parent refused it, or did not expect it any more",
        exit_codes.EXPIRED: "max_lifetime had passed",
        exit_codes.IDLE: "it had no call for max_idle",
        exit_codes.SILENT: "its agent was silent for too long",
        0: f"a runner never exits with this code itself: perhaps {ENTRYPOINT_HINT}",
        126: "the command that starts the runner cannot be executed: check init= and python=",
        127: "the command that starts the runner was not found: check init=, python= and the image",
        1: "check its log: is dragonfly_executor installed in the image, for the same version of Python?",
    }.get(ending.code)
    return f"{said}: {meaning}" if meaning else said
