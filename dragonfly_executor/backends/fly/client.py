"""The Machines API, as far as runners need it: each question is asked until there is an answer, or no time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import tenacity

from dragonfly_executor.backends.fly.deadline import Patience
from dragonfly_executor.backends.fly.errors import Again, FlyAPIError, OutOfTimeError, describe
from dragonfly_executor.backends.fly.http import CREATE, Line
from dragonfly_executor.backends.fly.machines import GONE, Machine
from dragonfly_executor.backends.fly.owner import KIND, RUNNER
from dragonfly_executor.backends.fly.responses import Reply, Verdict, classify, is_final, retry_after
from dragonfly_executor.backends.fly.settings import Access

T = TypeVar("T")

TIMEOUT = 10.0
"""Seconds for an answer."""
CREATE_TIMEOUT = 45.0
"""The same where a machine is created: a host is chosen meanwhile."""
WAIT_SLICE = 10
"""Seconds that one request waits for a machine's state."""
LATER = frozenset({Verdict.RATE, Verdict.TRANSIENT, Verdict.AMBIGUOUS, Verdict.CONFLICT})
"""What is asked again where asking twice does no harm."""
full_jitter = tenacity.wait_random_exponential(multiplier=0.25, max=4.0)


def persist(step: Callable[[], T], patience: Patience) -> T:
    """Do something until it does not raise `Again`, with growing pauses; its last error when there is no time left."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Again),
        wait=_pause,
        stop=lambda state: patience.over or patience.is_cut_short,
        sleep=patience.pause,
        reraise=True,
    )
    last: Again | None = None

    def attempt() -> T:
        nonlocal last
        try:
            return step()
        except OutOfTimeError:
            if last is None:
                raise
            # What went wrong before says more.
            raise last from None
        except Again as error:
            if last is not None and not error.status and patience.over:
                # No answer came, in what time there was left: the one before says more.
                raise last from None
            last = error
            raise

    return retrying(attempt)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.after if isinstance(error, Again) and error.after is not None else 0.0
    return max(asked, float(full_jitter(state)))


def failure(reply: Reply, verdict: Verdict, doing: str) -> FlyAPIError:
    """The error for an answer: `Again` where it may be asked again."""
    kind = Again if verdict in LATER else FlyAPIError
    error = kind(describe(reply, doing), reply.status, verdict, reply.request_id)
    error.final = is_final(reply, verdict)
    if isinstance(error, Again):
        error.after = retry_after(reply, time.time())
    return error


class MachinesAPI:
    """The machines of one app. Any thread.

    A context manager: connections are kept while anybody is in it, and made for each request otherwise. A forked child
    has connections of its own.

    Args:
        access: which app, as whom.
        transport: of httpx, for tests.
    """

    def __init__(self, access: Access, transport: httpx.BaseTransport | None = None) -> None:
        self.access = access
        self._transport = transport
        self._own_line = Line(access, transport)
        self._process = os.getpid()
        self._machines = f"/apps/{access.app}/machines"

    def of(self, app: str) -> MachinesAPI:
        """The machines of another app, with the same token."""
        return MachinesAPI(self.access._replace(app=app), self._transport)

    def __repr__(self) -> str:
        return f"MachinesAPI(app={self.access.app!r}, host={self.access.host!r})"

    def __enter__(self) -> Self:
        self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._line.__exit__(kind, error, traceback)

    @property
    def _line(self) -> Line:
        """This process's: on what a forked child has inherited, it and its parent would read each other's answers."""
        if self._process != os.getpid():
            self._own_line, self._process = Line(self.access, self._transport), os.getpid()
        return self._own_line

    def now(self) -> float:
        """Seconds since the epoch: by Fly's clock as soon as it has answered anything, until then by this machine's."""
        return self._line.now()

    # -- once ---------------------------------------------------------------------------------------------------------

    def wait_to_create(self, patience: Patience) -> None:
        """Wait until it is somebody's turn to ask for a machine.

        Raises:
            OutOfTimeError: its turn would come too late, or nobody wants it.
        """
        self._line.wait_for_turn(CREATE, self.access.app, patience)
        patience.turn_came = time.monotonic()

    def create(self, body: Mapping[str, Any], patience: Patience) -> Reply:
        """Ask for a machine, once. After `wait_to_create` it has its turn, else it waits for one."""
        return self._line.exchange(
            CREATE, self.access.app, "POST", self._machines, patience, timeout=CREATE_TIMEOUT, body=body
        )

    def wait(self, machine_id: str, states: tuple[str, ...], patience: Patience) -> Verdict:
        """Wait for a machine to come to one of these states, for one slice at most.

        Returns:
            OK; NOT_YET; NOT_FOUND, which Fly also says of one that was destroyed meanwhile; or what went wrong.
        """
        seconds = max(1, min(WAIT_SLICE, int(patience.left())))
        params = [*(("state", state) for state in states), ("timeout", str(seconds))]
        path = f"{self._machines}/{machine_id}/wait"
        try:
            reply = self._line.exchange(
                "wait", machine_id, "GET", path, patience, timeout=seconds + TIMEOUT, params=params
            )
        except OutOfTimeError:
            return Verdict.NOT_YET
        return classify(reply, is_wait=True)

    # -- until there is an answer -------------------------------------------------------------------------------------

    def get(self, machine_id: str, patience: Patience) -> Machine | None:
        """A machine; None if there is none, and perhaps never was.

        Raises:
            FlyAPIError: it was not to be found out.
        """
        doing = f"looking at machine {machine_id}"

        def step() -> Machine | None:
            reply = self._line.exchange(
                "get", machine_id, "GET", f"{self._machines}/{machine_id}", patience, timeout=TIMEOUT
            )
            verdict = classify(reply)
            if verdict is Verdict.NOT_FOUND:
                return None
            if verdict is not Verdict.OK:
                raise failure(reply, verdict, doing)
            machine = Machine.read(reply.json())
            if machine is None:
                raise failure(reply, Verdict.AMBIGUOUS, f"{doing}: the answer describes none")
            return machine

        return persist(step, patience)

    def runners(self, patience: Patience, **metadata: str) -> list[Machine]:
        """The app's machines that any pool has made for runners; those without a label are left out.

        What Fly lists may lag behind what there is: that something is not in there proves nothing.

        Args:
            patience: until when.
            metadata: what they must have in their metadata besides.

        Raises:
            FlyAPIError: they could not be listed.
        """
        wanted = {KIND: RUNNER, **metadata}
        found = self._listed(patience, wanted)
        # Whether it was filtered is not taken on trust: what is found may be destroyed.
        return [
            machine
            for machine in found
            if machine.metadata is not None and wanted.items() <= machine.metadata.items() and machine.state not in GONE
        ]

    def _listed(self, patience: Patience, wanted: Mapping[str, str]) -> list[Machine]:
        """What Fly answers when it is asked for the machines with this metadata."""

        def step() -> list[Machine]:
            reply = self._line.exchange(
                "list",
                self.access.app,
                "GET",
                self._machines,
                patience,
                timeout=TIMEOUT,
                params=[(f"metadata.{key}", value) for key, value in wanted.items()],
            )
            verdict = classify(reply)
            if verdict is not Verdict.OK:
                raise failure(reply, verdict, f"listing the machines of {self.access.app}")
            listed = reply.json()
            if not isinstance(listed, list):
                raise failure(reply, Verdict.AMBIGUOUS, f"listing the machines of {self.access.app}: it is no list")
            return [machine for said in listed if (machine := Machine.read(said)) is not None]

        return persist(step, patience)

    def ids(self, patience: Patience) -> set[str]:
        """The ids of all machines of the app, whoever's, as far as Fly lists them.

        Raises:
            FlyAPIError: they could not be listed.
        """
        listed = self._listed(patience, {})
        return {machine.id for machine in listed if machine.state not in GONE}

    def note(self, machine_id: str, key: str, value: str, patience: Patience) -> None:
        """Write something into a machine's metadata; fine if there is no such machine any more.

        Raises:
            FlyAPIError: it is not known to be written.
        """
        path, doing = f"{self._machines}/{machine_id}/metadata/{key}", f"writing {key} on machine {machine_id}"

        def step() -> None:
            body = {"value": value}
            reply = self._line.exchange("metadata", machine_id, "POST", path, patience, timeout=TIMEOUT, body=body)
            verdict = classify(reply)
            if verdict not in (Verdict.OK, Verdict.NOT_FOUND):
                raise failure(reply, verdict, doing)

        persist(step, patience)

    def regions(self, patience: Patience) -> list[str]:
        """The names of the regions that there are.

        Raises:
            FlyAPIError: they could not be listed.
        """

        def step() -> list[str]:
            doing = "listing the regions"
            reply = self._line.exchange("regions", "", "GET", "/platform/regions", patience, timeout=TIMEOUT)
            verdict = classify(reply)
            if verdict is not Verdict.OK:
                raise failure(reply, verdict, doing)
            said = reply.record() or {}
            # The document and the wire differ in how they write it.
            listed = said.get("Regions") or said.get("regions")
            if not isinstance(listed, list):
                raise failure(reply, Verdict.FATAL, f"{doing}: the answer has none")
            return [each["code"] for each in listed if isinstance(each, dict) and isinstance(each.get("code"), str)]

        return persist(step, patience)

    def destroy(self, machine_id: str, patience: Patience) -> bool:
        """Destroy a machine, whatever runs there, and wait until it is gone.

        Returns:
            Whether it is known to be gone; else it was told to go, and has yet to.

        Raises:
            FlyAPIError: it could not even be told to.
        """
        doing = f"destroying machine {machine_id}"

        def step() -> bool:
            reply = self._line.exchange(
                "destroy",
                machine_id,
                "DELETE",
                f"{self._machines}/{machine_id}",
                patience,
                timeout=TIMEOUT,
                params=[("force", "true")],
            )
            verdict = classify(reply)
            if verdict in (Verdict.OK, Verdict.NOT_FOUND):
                return verdict is Verdict.NOT_FOUND
            if reply.status in (409, 412, 422):
                machine = self.get(machine_id, patience)
                if machine is None or machine.state in {*GONE, "destroying"}:
                    # It was told before.
                    return machine is None or machine.state in GONE
                # Whatever is in the way, a lease or a state that was about to change: it does not last.
                verdict = Verdict.CONFLICT
            raise failure(reply, verdict, doing)

        return persist(step, patience) or self._wait_until_gone(machine_id, patience)

    def _wait_until_gone(self, machine_id: str, patience: Patience) -> bool:
        while not patience.over:
            # Each request waits for its turn, so this does not run hot where they come back at once.
            if self.wait(machine_id, ("destroyed",), patience) in (Verdict.OK, Verdict.NOT_FOUND):
                return True
        return False
