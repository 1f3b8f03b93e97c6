"""The simulator: a server in a thread of its own, and what a test holds in its hands."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.support.fly_simulator.addresses import Addresses
from tests.support.fly_simulator.api import Api
from tests.support.fly_simulator.faults import Faults
from tests.support.fly_simulator.history import History
from tests.support.fly_simulator.images import Image, registry
from tests.support.fly_simulator.machines import Machines
from tests.support.fly_simulator.openapi import OpenApi
from tests.support.fly_simulator.request_handler import RequestHandler, routes
from tests.support.fly_simulator.requested import DEFAULT_GUEST
from tests.support.fly_simulator.state import App, Machine, World
from tests.support.fly_simulator.timing import Rates, Timing
from tests.support.fly_simulator.uncertain import Switches
from tests.support.server_thread import ServerThread

PATIENCE = 30.0
T = TypeVar("T")


class Simulator:
    """A running simulator.

    Args:
        port: to listen on; 0 for a free one.
        app, region: the parent's.

    Attributes:
        url: of the API.
        environment: what a parent finds in its environment, as in a machine of that app, with where the API is and a
            token for it.
        world: apps and machines as they are.
        history: what happened.
        faults: what is to go wrong.
        timing, rates, switches: how long, how often, and what is uncertain.
        images: the registry; may be added to.
        pulled: says which image a machine really gets; what its config says, at first.
        openapi: what did not fit the document.
        connections: those of clients that are open.
        app: the parent's app, with its secrets.
        token, tokens: the parent's; all that are valid, each with the apps that it is good for (None: all).
        parent: the parent's own machine, which was not made by a request and has no process here.
        image: the name of the app's image.
    """

    def __init__(self, *, port: int = 0, app: str = "media", region: str = "cdg") -> None:
        self._app, self._region = app, region
        # The time of day, unless somebody sets the clock meanwhile.
        epoch = time.time() - time.monotonic()
        self._clock = lambda: epoch + time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="fly-"))
        self._server = ServerThread("fly-simulator", self._changed, port)
        self.connections = self._server.connections
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.addresses = Addresses()
        self._registry = registry(app, self._folder)
        self._change = threading.Condition()
        self._set_up()
        self._server.start(routes(lambda: self._handler))

    # -- what tests do -------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[World], T], patience: float = PATIENCE) -> T:
        """What `condition(world)` gives, as soon as that is true; it is asked whenever something has changed.

        Raises:
            AssertionError: it has not come true within so many seconds.
        """
        with self._change:
            self._change.wait_for(lambda: condition(self.world), patience)
            found = condition(self.world)
        assert found, f"it did not come to that: {self.describe()}"
        return found

    def machine(self, patience: float = PATIENCE) -> Machine:
        """The first machine that a request has made."""
        return self.until(lambda world: world.booted[:1], patience)[0]

    def wait_for(self, machine: Machine, state: str, patience: float = PATIENCE) -> None:
        """Wait until the machine is, or has been, in this state."""
        self.until(lambda _: any(each == state for _, each in machine.changes), patience)

    def pid(self, machine: Machine) -> int | None:
        """The machine's first process."""
        return self._machines.pid(machine)

    def log(self, machine: Machine) -> str:
        """What the machine's processes have written."""
        path = self._machines.log(machine)
        return path.read_text(errors="replace") if path.exists() else ""

    def do(self, step: Callable[..., T], *args: Any) -> T:
        """Do something to the world in the simulator's own thread, where nothing else happens meanwhile."""
        return self._server.do(step, *args)

    def destroy(self, machine: Machine) -> None:
        """As if somebody else had destroyed it."""
        self.do(self._machines.destroy, machine)

    def finish_pull(self, machine: Machine) -> None:
        """The image of a machine that is in `created` has arrived: it starts."""
        self.do(self._machines.finish_pull, machine)

    def finish_destroy(self, machine: Machine) -> None:
        """A machine that is in `destroying` is gone now."""
        self.do(self._machines.finish_destroy, machine)

    def run_out_of_memory(self, machine: Machine) -> None:
        """The machine's kernel kills its process."""
        self.do(self._machines.run_out_of_memory, machine)

    def lose_host(self, machine: Machine) -> None:
        """Nothing reaches the machine's host any more; what runs there goes on."""
        machine.host_is_lost = True

    def find_host_again(self, machine: Machine) -> None:
        """The host is back, and what was asked of it meanwhile is carried out."""
        self.do(self._machines.find_host_again, machine)

    def reboot(self, machine: Machine) -> None:
        """Its host reboots: the same machine starts again, with the same environment."""
        self.do(self._machines.reboot, machine)

    def cut_connections(self) -> None:
        """End all connections that are open now, unannounced."""
        self.do(self.connections.cut)

    def describe(self) -> str:
        """All machines with what became of them, for messages."""
        lines = [
            f"{machine.name} ({machine.id}): {' > '.join(state for _, state in machine.changes)}, exits {machine.exits}"
            f"\n{self.log(machine)}"
            for machine in self.world.booted
        ]
        calls = [f"{call.action} {call.reply.status if call.reply else None}" for call in self.history.calls]
        return "\n".join([*lines, f"requests: {', '.join(calls)}"])

    # -- life ----------------------------------------------------------------------------------------------------------

    def reset(self) -> list[str]:
        """End all that runs and begin anew. Returns what went wrong: this simulator's failures, and violations."""
        self._server.run(self._tear_down())
        troubles = self._handler.troubles + self.openapi.violations
        self._set_up()
        return troubles

    def close(self) -> list[str]:
        """End everything. Returns what `reset` does."""
        troubles = self.reset()
        self.addresses.close()
        self._server.close()
        shutil.rmtree(self._folder)
        return troubles

    async def _tear_down(self) -> None:
        await self._handler.close()
        await self.connections.close()
        await self._machines.close()
        self.addresses.close()

    def _set_up(self) -> None:
        """A world with one app, whose one machine is the parent's."""
        self.switches, self.timing, self.rates = Switches(), Timing(), Rates()
        self.images: dict[str, Image] = dict(self._registry)
        self.image = next(iter(self._registry))
        self.pulled: Callable[[Machine], str] = lambda machine: machine.config["image"]
        self.world = World(clock=self._clock, switches=self.switches)
        self.token = f"fm2_{secrets.token_hex(16)}"
        self.tokens: dict[str, frozenset[str] | None] = {self.token: frozenset({self._app})}
        # That is how the parent comes to have it; so every machine has it that does not skip secrets.
        self.app = self.world.apps[self._app] = App(self._app, "personal", {"FLY_API_TOKEN": f"FlyV1 {self.token}"})
        self.world.listeners.append(self._changed)
        self.history, self.faults, self.openapi = History(self.world, self._changed), Faults(), OpenApi()
        self._folder.joinpath("machines").mkdir(exist_ok=True)
        machines = Path(tempfile.mkdtemp(dir=self._folder / "machines"))
        self._machines = Machines(self._server.loop, self.world, self.timing, self._image_of, self.addresses, machines)
        api = Api(
            self.world, self._machines, self.timing, self.addresses, lambda name: name in self.images, self._region
        )
        self._handler = RequestHandler(
            self.world, api, self.rates, self.faults, self.history, self.openapi, self.tokens, self.connections
        )
        self.parent = self._parents_machine()
        self.environment = self._environment()

    def _parents_machine(self) -> Machine:
        metadata = {"fly_platform_version": "v2", "fly_process_group": "app"}
        config = {"image": self.image, "metadata": metadata, "guest": dict(DEFAULT_GUEST)}
        address = self.addresses.give()
        machine = self.world.add(self._app, "old-sun-7", self._region, config, address, by_request=False)
        self.world.started(machine)
        return machine

    def _image_of(self, machine: Machine) -> Image | None:
        return self.images.get(self.pulled(machine))

    def _environment(self) -> dict[str, str]:
        return {
            "FLY_APP_NAME": self._app,
            "FLY_MACHINE_ID": self.parent.id,
            "FLY_ALLOC_ID": self.parent.id,
            "FLY_MACHINE_VERSION": self.parent.instance_id,
            "FLY_REGION": self._region,
            "FLY_IMAGE_REF": self.image,
            "FLY_PRIVATE_IP": self.parent.private_ip,
            "FLY_PROCESS_GROUP": "app",
            "FLY_VM_MEMORY_MB": "256",
            "PRIMARY_REGION": self._region,
            "FLY_FLAPS_BASE_URL": self.url,
            **self.app.secrets,
        }

    def _changed(self, _machine: Machine | None = None) -> None:
        with self._change:
            self._change.notify_all()
