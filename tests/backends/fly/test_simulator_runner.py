"""Real runners on the simulator's machines, booted in the plainest way; and the simulator by hand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.protocol.parent import VARIABLE
from tests.backends.fly.asking import Asker
from tests.support import payloads
from tests.support.fly_simulator import addresses
from tests.support.fly_simulator.images import REPOSITORY
from tests.support.fly_simulator.simulator import Simulator
from tests.support.fly_simulator.state import Machine
from tests.support.helpers import PATIENCE

RUNNER = {"cmd": ["python", "-m", "dragonfly_executor.runner"]}


class PlainBackend(Backend):
    """A machine for each runner, as long as nothing goes wrong."""

    name = "plain-fly"
    default_max = 2
    dials_back = True

    def __init__(self, fly: Simulator, asker: Asker) -> None:
        self._fly, self._asker = fly, asker

    def listen_address(self) -> tuple[str, int]:
        return self._fly.environment["FLY_PRIVATE_IP"], 0

    def default_slots(self) -> int:
        return 1

    def boot(self, request: BootRequest) -> Node:
        env = {VARIABLE: request.parent.encode()}
        name = f"runner-{request.runner_id}"
        return PlainNode(self._fly, self._asker, self._asker.created(name, init=RUNNER, env=env))


class PlainNode(Node):
    def __init__(self, fly: Simulator, asker: Asker, machine: Machine) -> None:
        self._fly, self._asker, self._machine = fly, asker, machine

    def stop(self) -> None:
        self._asker.destroy(self._machine)
        self._fly.wait_for(self._machine, "destroyed")


def test_calls_run_on_machines(fly: Simulator, asker: Asker) -> None:
    """Over IPv6, with addresses of the private network where they may be added."""
    with DragonflyExecutor(max=2, backend=PlainBackend(fly, asker)) as executor:
        assert executor.submit(os.getenv, "FLY_MACHINE_ID").result(PATIENCE) == fly.machine().id
        assert executor.submit(payloads.echo, 3).result(PATIENCE) == 3
    assert fly.history.left == []
    assert fly.history.most_at_once() <= 2
    assert sum(fly.history.billed().values()) > 0


def test_addresses_come_and_go(fly: Simulator, asker: Asker) -> None:
    """Section 3.2: one for each machine, below fdaa::/16, as long as there is that machine."""
    if fly.addresses.reason:
        pytest.skip(f"machines have no addresses of their own: {fly.addresses.reason}")
    machine = asker.created("runner-1", image="registry.fly.io/media:stuck")
    both = {fly.parent.private_ip, machine.private_ip}
    assert len(both) == 2
    assert all(address.startswith("fdaa:") for address in both)
    assert both <= on_loopback()
    asker.destroy(machine)
    fly.wait_for(machine, "destroyed")
    assert both & on_loopback() == {fly.parent.private_ip}
    network = machine.private_ip.rpartition(":")[0]
    assert not [destination for destination in routes() if destination.startswith(network)]


def on_loopback() -> set[str]:
    with open("/proc/net/if_inet6") as lines:
        return {as_text(line.split()[0]) for line in lines if line.split()[-1] == "lo"}


def routes() -> set[str]:
    with open("/proc/net/ipv6_route") as lines:
        return {as_text(line.split()[0]) for line in lines}


def as_text(address: str) -> str:
    return ":".join(f"{int(address[i : i + 4], 16):x}" for i in range(0, 32, 4))


def test_without_the_right_to_add_them_all_have_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(addresses, "change_loopback", refuse)
    given = addresses.Addresses()
    assert (given.give(), given.reason) == ("::1", "no address can be added to loopback: Operation not permitted")


@pytest.mark.slow
def test_what_is_for_the_real_fly_runs_here(fly: Simulator, tmp_path: Path) -> None:
    """Nobody runs it often; so it shall not be broken when somebody does."""
    fly.rates.on = False
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    live = REPOSITORY / "tests" / "backends" / "fly" / "test_live.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--basetemp", tmp_path / "base", live],
        cwd=REPOSITORY,
        env={**env, **fly.environment, "FLY_LIVE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^6 passed", done.stdout, re.MULTILINE), done.stdout
    assert fly.token not in done.stdout
    assert fly.history.left == []


def test_by_hand() -> None:
    """It says what to export, and ends its machines when it is ended."""
    command = [sys.executable, "-m", "tests.support.fly_simulator", "--no-rates", "--region", "lhr"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, **pipes) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            variables = dict(re.findall(r"(\w+)='([^']*)'", line))
            assert line.startswith("export ")
            headers = {"Authorization": f"Bearer {variables['FLY_API_TOKEN']}"}
            init = {"cmd": ["python", "-c", "import signal; signal.pause()"]}
            config = {"image": variables["FLY_IMAGE_REF"], "init": init}
            place = f"{variables['FLY_FLAPS_BASE_URL']}/v1/apps/{variables['FLY_APP_NAME']}/machines"
            with httpx.Client(headers=headers, trust_env=False, verify=False) as http:
                made = http.post(place, json={"name": "runner-1", "config": config}).json()
                http.get(f"{place}/{made['id']}/wait", params={"timeout": 30}).raise_for_status()
            assert made["region"] == "lhr"
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=PATIENCE)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0
    assert f"runner-1 ({made['id']}): created > starting > started" in said
