"""What each endpoint does (reference 1.2). Nothing here knows of HTTP beyond status and body."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.support.fly_simulator import bodies, errors, regions
from tests.support.fly_simulator.addresses import Addresses
from tests.support.fly_simulator.calls import Call, Reply
from tests.support.fly_simulator.machines import Machines
from tests.support.fly_simulator.requested import check_create
from tests.support.fly_simulator.state import DESTROYABLE, ENDED, Machine, World
from tests.support.fly_simulator.timing import Timing
from tests.support.fly_simulator.values import rfc3339
from tests.support.fly_simulator.waits import WAITED_FOR, StateWait, wait_timeout

METADATA = "metadata."
NONCE = "fly-machine-lease-nonce"
OWNER = "0e2c0a6e-2b0b-4d4e-9d4e-5d2f3b1c8a77@tokens.fly.io"
OK = {"ok": True}

Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(slots=True)
class Api:
    """The endpoints, over one world.

    Args:
        image_exists: whether the registry has an image of that name.
        default_region: where machines are made whose request names none.
    """

    world: World
    machines: Machines
    timing: Timing
    addresses: Addresses
    image_exists: Callable[[str], bool]
    default_region: str

    async def handle(self, call: Call) -> Reply:
        """Carry out a request.

        Raises:
            errors.ApiError: it is refused.
        """
        handler: Handler = getattr(self, f"_{call.action}")
        return await handler(call)

    # -- machines ------------------------------------------------------------------------------------------------------

    async def _create(self, call: Call) -> Reply:
        switches = self.world.switches
        check_create(call.body, switches)
        image = call.body["config"]["image"]
        if switches.missing_image == "refused" and not self.image_exists(image):
            raise errors.invalid(f"failed to get manifest {image}: MANIFEST_UNKNOWN", switches.missing_image_status)
        if switches.create_commits_late:
            await asyncio.sleep(self.timing.create_latency)
        address = self.addresses.give()
        try:
            machine = self.world.create(call.app, call.body, address, default_region=self.default_region)
        except errors.ApiError:
            self.addresses.take_back(address)
            raise
        call.committed = True
        body = bodies.machine_body(machine)
        ttl = call.body.get("lease_ttl")
        if ttl:
            lease = self.world.take_lease(machine, ttl, "", None, OWNER)
            body["nonce"] = lease.nonce
        if not call.body.get("skip_launch"):
            self.machines.launch(machine)
        if not switches.create_commits_late:
            await asyncio.sleep(self.timing.create_latency)
        return Reply(200, body)

    async def _get(self, call: Call) -> Reply:
        machine = self._seen(call)
        lease = self.world.lease_of(machine) if call.is_true("include_leases") else None
        body = bodies.machine_body(machine, lease=lease)
        if machine.gets_destroying and machine.state == "destroyed":
            machine.gets_destroying -= 1
            body["state"] = "destroying"
        return Reply(200, body)

    async def _list(self, call: Call) -> Reply:
        self.world.app(call.app)
        summary, leases = call.is_true("summary"), call.is_true("include_leases")
        found = self.world.listed(
            [call.app],
            metadata=[(key.removeprefix(METADATA), value) for key, value in call.query if key.startswith(METADATA)],
            states=_words(call, "state"),
            region=call.first("region"),
            include_deleted=call.is_true("include_deleted"),
        )
        return Reply(
            200,
            [
                bodies.machine_body(
                    machine, lease=self.world.lease_of(machine) if leases else None, summary=summary
                )
                for machine in found
                if self._is_visible(machine, call)
            ],
        )  # fmt: skip

    async def _wait(self, call: Call) -> Reply:
        seconds = wait_timeout(call)
        wanted = _words(call, "state") or frozenset({"started"})
        if not wanted <= WAITED_FOR:
            raise errors.invalid(f"invalid WaitMachineRequest.State: {', '.join(sorted(wanted - WAITED_FOR))}")
        machine = self._seen(call)
        reached = StateWait(machine, wanted, call.first("from_event_id"), self.world.switches.wait_stopped_is_404)
        self.world.listeners.append(reached.look)
        try:
            reached.look(machine)
            async with asyncio.timeout(seconds * self.timing.second):
                state = await reached.state
        except TimeoutError:
            raise errors.not_reached(sorted(wanted), machine.state) from None
        finally:
            self.world.listeners.remove(reached.look)
        if state == "destroyed":
            machine.gets_destroying = self.world.switches.gets_destroying_after_wait
        return Reply(200, OK | {"state": state, "event_id": machine.events[-1].id, "version": machine.instance_id})

    async def _start(self, call: Call) -> Reply:
        machine = self._leased(call)
        previous = machine.state
        if previous in {"started", "starting", "stopping", "destroying", "restarting"}:
            raise errors.still_active()
        if previous not in {"stopped", "suspended"}:
            raise errors.cannot_start_from(previous)
        self.machines.start(machine)
        call.committed = True
        return Reply(200, {"previous_state": previous, "migrated": False, "new_host": ""})

    async def _stop(self, call: Call) -> Reply:
        if call.body is not None and not isinstance(call.body, dict):
            kind = "array" if isinstance(call.body, list) else type(call.body).__name__
            raise errors.ApiError(400, f"json: cannot unmarshal {kind} into Go value of type main.stopRequest")
        machine = await self._unleased(call)
        body = call.body or {}
        self.machines.stop(machine, body.get("signal"), body.get("timeout"))
        call.committed = True
        return Reply(200, OK)

    async def _signal(self, call: Call) -> Reply:
        machine = self._seen(call)
        wanted = (call.body or {}).get("signal")
        # fly-go sends the number, the OpenAPI document has the name.
        number = wanted if isinstance(wanted, int) else getattr(signal, str(wanted), None)
        if number is None:
            raise errors.invalid(f"unknown signal {wanted}")
        self.machines.signal(machine, number)
        call.committed = True
        return Reply(200, OK)

    async def _destroy(self, call: Call) -> Reply:
        machine = await self._unleased(call)
        if machine.state in ENDED:
            if self.world.switches.second_destroy == 200:
                return Reply(200, OK)
            raise errors.ApiError(self.world.switches.second_destroy, errors.no_machine().body["error"])
        if not call.is_true("force", "kill") and machine.state not in DESTROYABLE | {"destroying"}:
            raise errors.not_stopped()
        self.machines.destroy(machine)
        call.committed = True
        return Reply(200, OK)

    async def _events(self, call: Call) -> Reply:
        limit = int(call.first("limit", "20") or 20)
        return Reply(200, bodies.events_body(self._seen(call).events, min(limit, 50)))

    # -- metadata and leases -------------------------------------------------------------------------------------------

    async def _metadata(self, call: Call) -> Reply:
        machine = self._seen(call)
        if call.method == "GET":
            return Reply(200, dict(machine.metadata))
        body = call.body or {}
        if body.get("machine_version") not in {None, machine.instance_id}:
            raise errors.ApiError(412, "failed_precondition: machine_version does not match")
        # PUT and PATCH are one operation in the OpenAPI document.
        for key, value in (body.get("metadata") or {}).items():
            _set(machine, key, value)
        self.world.changed(machine)
        call.committed = True
        return Reply(204)

    async def _metadata_key(self, call: Call) -> Reply:
        machine, key = self._seen(call), call.parameters["key"]
        if call.method == "GET":
            if key not in machine.metadata:
                raise errors.ApiError(404, "not_found: metadata key not found")
            return Reply(200, {"value": machine.metadata[key]})
        _set(machine, key, (call.body or {}).get("value") if call.method == "POST" else None)
        self.world.changed(machine)
        call.committed = True
        return Reply(204)

    async def _lease(self, call: Call) -> Reply:
        machine, nonce = self._seen(call), call.headers.get(NONCE)
        if call.method == "POST":
            body = call.body or {}
            ttl = float(call.first("ttl") or body.get("ttl") or 60)
            lease = self.world.take_lease(machine, ttl, body.get("description", ""), nonce, OWNER)
            call.committed = True
            return Reply(self.world.switches.lease_status, bodies.lease_body(lease, machine))
        if call.method == "DELETE":
            self.world.release_lease(machine, nonce)
            call.committed = True
            return Reply(200, OK)
        held = self.world.lease_of(machine)
        if held is None:
            text = "lease not found"
            raise errors.ApiError(404, text, body={"status": "error", "message": text, "code": "lease_not_found"})
        return Reply(200, bodies.lease_body(held, machine))

    # -- all else ------------------------------------------------------------------------------------------------------

    async def _app(self, call: Call) -> Reply:
        app = self.world.app(call.app)
        return Reply(200, bodies.app_body(app, len(self.world.listed([app.name]))))

    async def _org_list(self, call: Call) -> Reply:
        slug = call.parameters["slug"]
        apps = [app.name for app in self.world.apps.values() if app.organization == slug]
        if not apps:
            raise errors.ApiError(404, "not_found: organization not found")
        found = self.world.listed(
            apps,
            states=_words(call, "state"),
            region=call.first("region"),
            include_deleted=call.is_true("include_deleted"),
        )
        found.sort(key=lambda machine: machine.updated_at)
        start, limit = int(call.first("cursor", "0") or 0), int(call.first("limit", "1000") or 1000)
        page = found[start : start + limit]
        more = start + limit < len(found)
        summary = call.is_true("summary")
        return Reply(
            200,
            {
                "machines": [bodies.org_machine_body(machine, summary=summary) for machine in page],
                "next_cursor": str(start + limit) if more else "",
                "error_regions": [],
            },
        )

    async def _regions(self, call: Call) -> Reply:
        return Reply(200, bodies.regions_body(self.default_region))

    async def _placements(self, call: Call) -> Reply:
        body = call.body or {}
        wanted = regions.regions_of(body.get("region") or "any")
        free = [region for region in wanted if region not in self.world.full]
        if not free:
            raise errors.no_candidate_host()
        count = body.get("count", 1)
        return Reply(200, {"Regions": [{"Region": free[0], "Count": count, "Concurrency": count}]})

    # -- which machine -------------------------------------------------------------------------------------------------

    def _is_visible(self, machine: Machine, call: Call) -> bool:
        """Whether who asks can know of it yet: the cookie leads to the node that made it (S: read your writes)."""
        is_led = self.world.switches.affinity_is_heeded and "fly_flaps_affinity" in call.headers.get("cookie", "")
        return is_led or self.world.now() >= machine.created_at + self.timing.lag

    def _seen(self, call: Call) -> Machine:
        machine = self.world.machine(call.app, call.machine)
        if not self._is_visible(machine, call):
            raise errors.no_machine()
        return machine

    def _leased(self, call: Call) -> Machine:
        """Refused at once where somebody else has the lease (L)."""
        machine = self._seen(call)
        lease = self.world.lease_of(machine)
        if lease is not None and call.headers.get(NONCE) != lease.nonce:
            raise errors.lease_held(machine.id, lease.owner, rfc3339(lease.expires_at))
        return machine

    async def _unleased(self, call: Call) -> Machine:
        """Stop and destroy are not refused then, they wait until the lease has run out (L)."""
        machine = self._seen(call)
        while (lease := self.world.lease_of(machine)) and call.headers.get(NONCE) != lease.nonce:
            released = asyncio.Event()
            listener = _when(machine, released)
            self.world.listeners.append(listener)
            try:
                async with asyncio.timeout(max(0.0, lease.expires_at - self.world.now())):
                    await released.wait()
            except TimeoutError:
                continue
            finally:
                self.world.listeners.remove(listener)
        return machine


def _set(machine: Machine, key: str, value: str | None) -> None:
    """Null and "" remove a key."""
    if value:
        machine.metadata[key] = value
    else:
        machine.metadata.pop(key, None)


def _when(machine: Machine, event: asyncio.Event) -> Callable[[Machine], None]:
    def listener(changed: Machine) -> None:
        if changed is machine:
            event.set()

    return listener


def _words(call: Call, name: str) -> frozenset[str]:
    """All values of a parameter that may be repeated, and may hold several between commas."""
    values: list[Any] = [value.split(",") for key, value in call.query if key == name]
    return frozenset(word.strip() for words in values for word in words if word.strip())
