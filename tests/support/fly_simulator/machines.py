"""Carries out what machines do: pull, start, run, stop, be destroyed. The timers and processes of the world."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.fly_simulator.addresses import Addresses
from tests.support.fly_simulator.images import Image
from tests.support.fly_simulator.processes import MachineProcess
from tests.support.fly_simulator.state import ENDED, App, Machine, World
from tests.support.fly_simulator.timing import Timing
from tests.support.fly_simulator.uncertain import Switches

DEFAULT_SIGNAL = "SIGINT"
DEFAULT_GRACE = 5.0
OOM = 137
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)?")


class Machines:
    """Each machine's life beyond what is noted of it.

    Args:
        image_of: what is pulled for a machine; None if there is no such image.
        folder: the machines' own files are below it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        world: World,
        timing: Timing,
        image_of: Callable[[Machine], Image | None],
        addresses: Addresses,
        folder: Path,
    ) -> None:
        self._loop = loop
        self._world = world
        self._timing = timing
        self._image_of = image_of
        self._pulled: dict[str, Image] = {}
        self._addresses = addresses
        self._folder = folder
        self._timers: dict[str, set[asyncio.TimerHandle]] = {}
        self._processes: dict[str, MachineProcess] = {}
        self._unheard: dict[str, list[Callable[[], None]]] = {}
        self._ended = asyncio.Event()
        self._ooms: set[str] = set()
        self._rebooting: set[str] = set()
        self._closed = False

    # -- what requests ask for -----------------------------------------------------------------------------------------

    def launch(self, machine: Machine) -> None:
        """It was created: its image is pulled, then it starts."""
        image = self._image_of(machine)
        if image is None:
            if self._world.switches.missing_image == "launch_failed":
                self._later(machine, self._timing.pull_time or 0.0, self._fail_to_launch)
            return
        self._pulled[machine.id] = image
        usual = image.pull_time == "usual"
        seconds = self._timing.pull_time if usual else image.pull_time
        if seconds is not None:
            self._later(machine, float(seconds), self._fail_to_launch if image.fails_to_launch else self._prepare)

    def start(self, machine: Machine) -> None:
        """It was stopped, and starts again."""
        self._prepare(machine)

    def stop(self, machine: Machine, name: str | None = None, grace: Any = None) -> None:
        """Ask its process to end, and end it after the grace."""
        if machine.id not in self._processes or machine.state == "stopping":
            return
        settings = machine.config.get("stop_config") or {}
        number = getattr(signal, name or settings.get("signal") or DEFAULT_SIGNAL)
        seconds = duration(grace if grace is not None else settings.get("timeout"), DEFAULT_GRACE)
        machine.stop_requested = True
        self._world.move(machine, "stopping")
        self._world.record(machine, "stop", "user")
        self._processes[machine.id].signal(number)
        self._later(machine, seconds * self._timing.second, self._kill)

    def signal(self, machine: Machine, number: int) -> None:
        """Send its process a signal."""
        if machine.id in self._processes:
            self._processes[machine.id].signal(number)

    def destroy(self, machine: Machine) -> None:
        """It goes, whatever it does."""
        if machine.state == "destroying" or machine.state in ENDED:
            return
        self._world.move(machine, "destroying")
        self._world.record(machine, "destroy", "user")
        self._when_reached(machine, lambda: self._carry_out_destroy(machine))

    def finish_pull(self, machine: Machine) -> None:
        """Its image is there, however long that would have taken. A lost host has not heard of its destruction."""
        waits = machine.state == "created" or (machine.state == "destroying" and machine.host_is_lost)
        if waits and machine.id in self._pulled and machine.id not in self._processes:
            self._drop_timers(machine)
            self._prepare(machine)

    def finish_destroy(self, machine: Machine) -> None:
        """It is gone, however long that would have taken; as long as nothing runs there."""
        if machine.state == "destroying" and machine.id not in self._processes:
            self._destroyed(machine)

    def run_out_of_memory(self, machine: Machine) -> None:
        """The kernel of the machine kills its process."""
        if machine.id in self._processes:
            self._ooms.add(machine.id)
            self._processes[machine.id].kill()

    def reboot(self, machine: Machine) -> None:
        """Its host goes down and comes up again, and the machine with it: the same one, without an event (I)."""
        if machine.id in self._processes:
            self._rebooting.add(machine.id)
            self._processes[machine.id].kill()

    def find_host_again(self, machine: Machine) -> None:
        """Its host is back: what could not be carried out is carried out now (P: C-21341)."""
        machine.host_is_lost = False
        self._world.changed(machine)
        for step in self._unheard.pop(machine.id, ()):
            step()

    # -- looking -------------------------------------------------------------------------------------------------------

    def pid(self, machine: Machine) -> int | None:
        """Of its first process."""
        process = self._processes.get(machine.id)
        return process.pid if process else None

    def log(self, machine: Machine) -> Path:
        """What its processes have written."""
        return self._folder / f"{machine.id}.log"

    async def close(self) -> None:
        """End everything that runs, and wait until it has ended."""
        self._closed = True
        for timers in self._timers.values():
            for timer in timers:
                timer.cancel()
        for process in tuple(self._processes.values()):
            process.kill()
        while self._processes:
            self._ended.clear()
            await self._ended.wait()

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _when_reached(self, machine: Machine, step: Callable[[], None]) -> None:
        """Take a step as soon as its host can be reached."""
        if machine.host_is_lost:
            self._unheard.setdefault(machine.id, []).append(step)
        else:
            step()

    def _later(self, machine: Machine, seconds: float, step: Callable[[Machine], None]) -> None:
        timers = self._timers.setdefault(machine.id, set())

        def run() -> None:
            timers.discard(timer)
            step(machine)

        timer = self._loop.call_later(seconds, run)
        timers.add(timer)

    def _drop_timers(self, machine: Machine) -> None:
        for timer in self._timers.pop(machine.id, ()):
            timer.cancel()

    def _prepare(self, machine: Machine) -> None:
        if self._world.switches.starting_is_shown and not machine.host_is_lost:
            self._world.move(machine, "starting")
        self._run(machine)

    def _run(self, machine: Machine) -> None:
        image = self._pulled[machine.id]
        root = self._folder / machine.id
        for part in ("root", "tmp"):
            (root / part).mkdir(parents=True, exist_ok=True)
        process = MachineProcess(
            self._loop,
            command(machine.config.get("init") or {}, image),
            environment(machine, self._world.app(machine.app), image, root, self._world.switches),
            image.workdir,
            self.log(machine),
            f"FLY_MACHINE_ID={machine.id}",
            lambda code, number: self._gone(machine, code, number),
        )
        self._processes[machine.id] = process
        if not machine.host_is_lost:
            self._world.started(machine)
        if image.out_of_memory:
            self.run_out_of_memory(machine)

    def _kill(self, machine: Machine) -> None:
        if machine.id in self._processes:
            self._processes[machine.id].kill()

    def _gone(self, machine: Machine, code: int, number: int) -> None:
        del self._processes[machine.id]
        self._drop_timers(machine)
        self._ended.set()
        is_rebooting = machine.id in self._rebooting
        self._rebooting.discard(machine.id)
        if is_rebooting and not self._closed and machine.state == "started":
            self._run(machine)
        elif not self._closed:
            self._when_reached(machine, lambda: self._exited(machine, code, number))

    def _exited(self, machine: Machine, code: int, number: int) -> None:
        oom = machine.id in self._ooms
        self._ooms.discard(machine.id)
        ended = self._world.exited(machine, OOM if oom else code, signal=-1 if oom else number, oom=oom)
        if machine.state == "destroying":
            self._later(machine, self._timing.destroy_time, self._destroyed)
        elif ended.restarting:
            self._run(machine)
        else:
            machine.stop_requested = False
            if machine.config.get("auto_destroy"):
                self._destroy_itself(machine)

    def _destroy_itself(self, machine: Machine) -> None:
        self._world.move(machine, "destroying")
        self._world.record(machine, "destroy", "flyd")
        self._later(machine, self._timing.destroy_time, self._destroyed)

    def _carry_out_destroy(self, machine: Machine) -> None:
        self._drop_timers(machine)
        if machine.id in self._processes:
            self._processes[machine.id].kill()
        else:
            self._later(machine, self._timing.destroy_time, self._destroyed)

    def _fail_to_launch(self, machine: Machine) -> None:
        self._world.move(machine, "launch_failed")
        self._world.record(machine, "launch", "flyd")
        self._later(machine, self._timing.destroy_time, self._destroyed)

    def _destroyed(self, machine: Machine) -> None:
        if machine.state == "destroyed":
            return
        self._drop_timers(machine)
        self._addresses.take_back(machine.private_ip)
        shutil.rmtree(self._folder / machine.id, ignore_errors=True)
        self._world.move(machine, "destroyed")


def command(init: Mapping[str, Any], image: Image) -> list[str]:
    """What a machine runs: `exec` overrides everything, `entrypoint` and `cmd` the image's (D)."""
    if init.get("exec"):
        return list(init["exec"])
    return [*(init.get("entrypoint") or image.entrypoint), *(init.get("cmd") or image.cmd)]


def environment(machine: Machine, app: App, image: Image, root: Path, switches: Switches) -> dict[str, str]:
    """All that a machine's process finds in its environment (reference 3.1, 3.3). Nothing of this process's."""
    # TMPDIR is no variable of a machine: it stands for the /tmp that each machine has to itself.
    found = {"HOME": f"{root}/root", "TMPDIR": f"{root}/tmp", "TERM": "linux"} | image.env
    env = dict(machine.config.get("env") or {})
    secrets = {} if switches.skips_secrets and machine.skip_secrets else app.secrets
    found |= env | secrets if switches.secret_wins else secrets | env
    found |= {
        "FLY_APP_NAME": machine.app,
        "FLY_MACHINE_ID": machine.id,
        "FLY_ALLOC_ID": machine.id,
        "FLY_MACHINE_VERSION": machine.instance_id,
        "FLY_REGION": machine.region,
        "FLY_IMAGE_REF": machine.config["image"],
        "FLY_PRIVATE_IP": machine.private_ip,
        "FLY_VM_MEMORY_MB": str(machine.guest["memory_mb"]),
    }
    group = machine.metadata.get("fly_process_group")
    return found | ({"FLY_PROCESS_GROUP": group} if group else {})


def duration(value: Any, default: float) -> float:
    """Seconds of a Go duration, or of an integer of nanoseconds (D, S: both are taken)."""
    if value is None:
        return default
    if isinstance(value, int):
        return value / 1e9
    matched = DURATION.fullmatch(value)
    if matched is None:
        raise ValueError(f"not a duration: {value!r}")
    return float(matched[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}[matched[2]]
