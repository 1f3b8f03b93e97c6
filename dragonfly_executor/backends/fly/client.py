"""`MachinesAPI`: the requests to Fly's Machines API that runners need, with retries until the time is over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import tenacity

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.boot_deadline import FlyBootDeadline
from dragonfly_executor.backends.fly.errors import FlyAPIError, OutOfTimeError, RetryableAPIError, describe
from dragonfly_executor.backends.fly.http import HttpConnections
from dragonfly_executor.backends.fly.machines import GONE, FlyMachine
from dragonfly_executor.backends.fly.responses import APIResponse, ResponseKind, classify, is_final, retry_after
from dragonfly_executor.backends.fly.settings import APIAccess
from dragonfly_executor.backends.label import KIND, RUNNER

T = TypeVar("T")

CREATE = "create"
"""The action that creates a machine."""
TIMEOUT = 10.0
"""Seconds for a response."""
CREATE_TIMEOUT = 45.0
"""Seconds for the response to a create request, as Fly chooses a host first."""
WAIT_SLICE = 10
"""Seconds for which one request waits for a machine's state."""
RETRYABLE = frozenset({ResponseKind.RATE, ResponseKind.TRANSIENT, ResponseKind.AMBIGUOUS, ResponseKind.CONFLICT})
"""Verdicts that allow a retry, if the request is safe to send twice."""
full_jitter = tenacity.wait_random_exponential(multiplier=0.25, max=4.0)


def persist(step: Callable[[], T], deadline: Deadline) -> T:
    """Retry `step` with growing pauses while it raises `RetryableAPIError`.

    When the time is over, raise the error that says most.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RetryableAPIError),
        wait=_pause,
        stop=lambda state: deadline.is_over,
        sleep=deadline.pause,
        reraise=True,
    )
    last: RetryableAPIError | None = None

    def attempt() -> T:
        """Run the step once, and choose the error that says most."""
        nonlocal last
        try:
            return step()
        except OutOfTimeError:
            if last is None:
                raise
            # The earlier error says more.
            raise last from None
        except RetryableAPIError as error:
            if last is not None and not error.status and deadline.is_over:
                # The time ended before a response came: the earlier error says more.
                raise last from None
            last = error
            raise

    return retrying(attempt)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.after if isinstance(error, RetryableAPIError) and error.after is not None else 0.0
    return max(asked, float(full_jitter(state)))


def failure(reply: APIResponse, verdict: ResponseKind, doing: str) -> FlyAPIError:
    """Return the error for a response: `RetryableAPIError` if the request may be retried."""
    kind = RetryableAPIError if verdict in RETRYABLE else FlyAPIError
    error = kind(describe(reply, doing), reply.status, verdict, reply.request_id)
    error.final = is_final(reply, verdict)
    if isinstance(error, RetryableAPIError):
        error.after = retry_after(reply, time.time())
    return error


class MachinesAPI:
    """The machines of one app. Any thread.

    A context manager: it keeps connections open while at least one `with` block is active. Outside of a `with` block,
    each request makes its own connection. A forked child makes new connections.

    Args:
        access: the app and the token.
        transport: an httpx transport, for tests.
    """

    def __init__(self, access: APIAccess, transport: httpx.BaseTransport | None = None) -> None:
        self.access = access
        self._transport = transport
        self._own_connections = HttpConnections(access, transport)
        self._process = os.getpid()
        self._machines = f"/apps/{access.app}/machines"

    def of(self, app: str) -> MachinesAPI:
        """Return the API for the machines of another app, with the same token."""
        return MachinesAPI(self.access._replace(app=app), self._transport)

    def __repr__(self) -> str:
        return f"MachinesAPI(app={self.access.app!r}, host={self.access.host!r})"

    def __enter__(self) -> Self:
        self._connections.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connections.__exit__(kind, error, traceback)

    @property
    def _connections(self) -> HttpConnections:
        """Return the connections of this process. On inherited ones, it and its parent read each other's responses."""
        if self._process != os.getpid():
            self._own_connections, self._process = HttpConnections(self.access, self._transport), os.getpid()
        return self._own_connections

    def now(self) -> float:
        """Return seconds since the epoch by Fly's clock, or by this machine's clock until the first response."""
        return self._connections.now()

    # -- once ---------------------------------------------------------------------------------------------------------

    def wait_to_create(self, deadline: FlyBootDeadline) -> None:
        """Wait until the rate limit allows a create request.

        Raises:
            OutOfTimeError: the turn comes too late, or the boot was cancelled.
        """
        self._connections.wait_for_turn(CREATE, self.access.app, deadline, deadline.wait_for_turn)
        deadline.turn_came = time.monotonic()

    def create(self, body: Mapping[str, Any], deadline: FlyBootDeadline) -> APIResponse:
        """Send one create request. Waits for its turn, unless `wait_to_create` has already done so.

        Raises:
            OutOfTimeError: the turn comes too late, or the boot was cancelled.
        """
        connections, app = self._connections, self.access.app
        waited = deadline.take_turn()
        if waited is None:
            connections.wait_for_turn(CREATE, app, deadline, deadline.wait_for_turn)
        else:
            connections.turn_was_late(CREATE, app, waited)
        return connections.send(
            "POST", self._machines, deadline, timeout=CREATE_TIMEOUT, body=body, on_send=deadline.asks
        )

    def wait(self, machine_id: str, states: tuple[str, ...], deadline: Deadline) -> ResponseKind:
        """Wait for at most one slice (`WAIT_SLICE` seconds) until a machine is in one of these states.

        Returns:
            OK; NOT_YET; NOT_FOUND, also if the machine was destroyed meanwhile; or the verdict on a failed request.
        """
        seconds = max(1, min(WAIT_SLICE, int(deadline.left())))
        params = [*(("state", state) for state in states), ("timeout", str(seconds))]
        path = f"{self._machines}/{machine_id}/wait"
        try:
            reply = self._connections.exchange(
                "wait", machine_id, "GET", path, deadline, timeout=seconds + TIMEOUT, params=params
            )
        except OutOfTimeError:
            return ResponseKind.NOT_YET
        return classify(reply, is_wait=True)

    # -- until there is an answer -------------------------------------------------------------------------------------

    def get(self, machine_id: str, deadline: Deadline) -> FlyMachine | None:
        """Return a machine, or None if Fly does not know it. Then it may never have existed.

        Raises:
            FlyAPIError: Fly gave no usable response in time.
        """
        doing = f"looking at machine {machine_id}"

        def step() -> FlyMachine | None:
            """Send the request once, and read the machine."""
            reply = self._connections.exchange(
                "get", machine_id, "GET", f"{self._machines}/{machine_id}", deadline, timeout=TIMEOUT
            )
            verdict = classify(reply)
            if verdict is ResponseKind.NOT_FOUND:
                return None
            if verdict is not ResponseKind.OK:
                raise failure(reply, verdict, doing)
            machine = FlyMachine.read(reply.json())
            if machine is None:
                raise failure(reply, ResponseKind.AMBIGUOUS, f"{doing}: Fly's answer describes no machine")
            return machine

        return persist(step, deadline)

    def runners(self, deadline: Deadline, **metadata: str) -> list[FlyMachine]:
        """Return the app's machines that pools have created for runners. Machines without a label are left out.

        Fly's list may lag behind: a machine that is not in it may exist.

        Args:
            deadline: the time for all requests.
            metadata: further metadata that the machines must have.

        Raises:
            FlyAPIError: the machines could not be listed.
        """
        wanted = {KIND: RUNNER, **metadata}
        found = self._listed(deadline, wanted)
        # Check the filter again instead of trusting Fly, as the machines found here may be destroyed.
        return [
            machine
            for machine in found
            if machine.metadata is not None and wanted.items() <= machine.metadata.items() and machine.state not in GONE
        ]

    def _listed(self, deadline: Deadline, wanted: Mapping[str, str]) -> list[FlyMachine]:
        """Return the machines that Fly lists for this metadata."""

        def step() -> list[FlyMachine]:
            """Send the request once, and read the machines."""
            reply = self._connections.exchange(
                "list",
                self.access.app,
                "GET",
                self._machines,
                deadline,
                timeout=TIMEOUT,
                params=[(f"metadata.{key}", value) for key, value in wanted.items()],
            )
            verdict = classify(reply)
            if verdict is not ResponseKind.OK:
                raise failure(reply, verdict, f"listing the machines of {self.access.app}")
            listed = reply.json()
            if not isinstance(listed, list):
                raise failure(
                    reply, ResponseKind.AMBIGUOUS, f"listing the machines of {self.access.app}: Fly's answer is no list"
                )
            return [machine for said in listed if (machine := FlyMachine.read(said)) is not None]

        return persist(step, deadline)

    def ids(self, deadline: Deadline) -> set[str]:
        """Return the ids of all listed machines of the app, with or without a label.

        Raises:
            FlyAPIError: the machines could not be listed.
        """
        listed = self._listed(deadline, {})
        return {machine.id for machine in listed if machine.state not in GONE}

    def note(self, machine_id: str, key: str, value: str, deadline: Deadline) -> None:
        """Write a key into a machine's metadata. Does nothing if the machine is gone.

        Raises:
            FlyAPIError: it is not certain that the key was written.
        """
        path, doing = f"{self._machines}/{machine_id}/metadata/{key}", f"writing {key} on machine {machine_id}"

        def step() -> None:
            """Send the request once."""
            body = {"value": value}
            reply = self._connections.exchange(
                "metadata", machine_id, "POST", path, deadline, timeout=TIMEOUT, body=body
            )
            verdict = classify(reply)
            if verdict not in (ResponseKind.OK, ResponseKind.NOT_FOUND):
                raise failure(reply, verdict, doing)

        persist(step, deadline)

    def regions(self, deadline: Deadline) -> list[str]:
        """Return the names of Fly's regions.

        Raises:
            FlyAPIError: the regions could not be listed.
        """

        def step() -> list[str]:
            """Send the request once, and read the names."""
            doing = "listing the regions"
            reply = self._connections.exchange("regions", "", "GET", "/platform/regions", deadline, timeout=TIMEOUT)
            verdict = classify(reply)
            if verdict is not ResponseKind.OK:
                raise failure(reply, verdict, doing)
            said = reply.record() or {}
            # Fly's documentation and its responses spell this key differently.
            listed = said.get("Regions") or said.get("regions")
            if not isinstance(listed, list):
                raise failure(reply, ResponseKind.FATAL, f"{doing}: Fly's answer names no region")
            return [each["code"] for each in listed if isinstance(each, dict) and isinstance(each.get("code"), str)]

        return persist(step, deadline)

    def destroy(self, machine_id: str, deadline: Deadline) -> bool:
        """Destroy a machine, even while it runs calls, and wait until it is gone.

        Returns:
            True if the machine is known to be gone. False if Fly accepted the request but the machine still exists.

        Raises:
            FlyAPIError: Fly did not accept the request.
        """
        doing = f"destroying machine {machine_id}"

        def step() -> bool:
            """Send the request once. Returns True if Fly does not know the machine."""
            reply = self._connections.exchange(
                "destroy",
                machine_id,
                "DELETE",
                f"{self._machines}/{machine_id}",
                deadline,
                timeout=TIMEOUT,
                params=[("force", "true")],
            )
            verdict = classify(reply)
            if verdict in (ResponseKind.OK, ResponseKind.NOT_FOUND):
                return verdict is ResponseKind.NOT_FOUND
            if reply.status in (409, 412, 422):
                machine = self.get(machine_id, deadline)
                if machine is None or machine.state in {*GONE, "destroying"}:
                    # An earlier request has already been accepted.
                    return machine is None or machine.state in GONE
                # A lease or a state change is in the way. Both end soon.
                verdict = ResponseKind.CONFLICT
            raise failure(reply, verdict, doing)

        return persist(step, deadline) or self._wait_until_gone(machine_id, deadline)

    def _wait_until_gone(self, machine_id: str, deadline: Deadline) -> bool:
        while not deadline.is_over:
            # No busy loop, even if Fly answers at once: the rate limit delays each request.
            if self.wait(machine_id, ("destroyed",), deadline) in (ResponseKind.OK, ResponseKind.NOT_FOUND):
                return True
        return False
