"""Containers: their configuration, lost answers, killed parents, and the commands."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError, DragonflyExecutor, Parent
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.docker.backend import DockerBackend, find_socket
from dragonfly_executor.backends.docker.node import read_log
from dragonfly_executor.backends.docker.sizes import memory_bytes
from dragonfly_executor.backends.owner import Liveness
from dragonfly_executor.cli.main import main
from tests.support.fake_docker import IMAGE, FakeDocker
from tests.support.helpers import PATIENCE, Gate, Mailbox, watching

pytestmark = pytest.mark.slow

MakeBackend = Callable[..., DockerBackend]
NOWHERE = Parent.new("pool", 1, "docker")._replace(address="127.0.0.1:1", fingerprint="00" * 32, token="00" * 32)


def request(parent: Parent = NOWHERE) -> BootRequest:
    return BootRequest(1, parent, 5)


def test_a_container_has_what_the_user_asks_for(docker: FakeDocker, make_backend: MakeBackend) -> None:
    backend = make_backend(env={"MODE": "test"}, cpus=1.5, memory="1g")
    with DragonflyExecutor(backend=backend, max=1) as executor:
        assert executor.submit(os.getenv, "MODE").result() == "test"
        (container,) = docker.containers.values()
    limits = {"NanoCpus": 1_500_000_000, "Memory": 2**30}
    assert container.config["HostConfig"] == {"NetworkMode": "host", "Init": True, **limits}
    assert container.config["Labels"]["dragonfly_pool"] == executor.pool.name
    assert "token" not in json.dumps(container.config["Labels"])
    assert backend.default_slots() == 1
    assert docker.containers == {}


@pytest.mark.parametrize("lost", ["POST /containers/create", "POST /containers/dragonfly", "DELETE"])
def test_a_lost_answer_leaves_no_container(docker: FakeDocker, make_backend: MakeBackend, lost: str) -> None:
    """The request was served, and the answer was lost: the name was there before."""
    backend = make_backend(sweep=False)
    docker.broken[lost] = 1
    try:
        node = backend.boot(request())
    except BootError as error:
        assert "disconnected" in str(error)
        assert lost != "DELETE"
    else:
        node.stop()
        assert lost == "DELETE"
    assert docker.broken == {lost: 0}
    assert docker.containers == {}
    assert backend.journal is not None
    assert backend.journal.entries() == []


def test_a_container_that_cannot_be_removed_is_left_to_a_sweep(
    docker: FakeDocker, make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make_backend(sweep=False)
    node = backend.boot(request())
    docker.broken["POST /containers/dragonfly"] = 3
    removed = dict(docker.containers)
    node.stop()
    assert "may still be there" in caplog.text
    docker.containers.update({name: one for name, one in removed.items() if not one.folder.mkdir()})
    assert [one.why for one in backend.sweep().destroyed] == ["its pool has released it"]
    assert docker.containers == {}


def test_an_image_that_is_not_there_is_final(docker: FakeDocker, make_backend: MakeBackend) -> None:
    with pytest.raises(BootError, match=r"No such image: other:1 \(docker pull other:1\)") as caught:
        make_backend("other:1").boot(request())
    assert caught.value.final
    with pytest.raises(BootError, match="has no image"):
        make_backend(None).boot(request())


def test_a_runner_that_ends_while_it_boots_is_told_with_its_output(
    docker: FakeDocker, make_backend: MakeBackend
) -> None:
    node = make_backend().boot(request(Parent.new("pool", 1, "docker")))
    error = node.ended(PATIENCE)
    said = "dragonfly runner: DRAGONFLY_PARENT lacks the parent's address or the token"
    assert error is not None
    assert "ended with status 1" in str(error)
    assert error.output == said
    docker.answer("DELETE", f"/containers/{node.name}", {"force": "true"}, None)
    assert "is gone" in str(node.ended(PATIENCE))
    assert node.output() == ""
    node.stop()
    assert node.ended(PATIENCE) is None


def test_a_runner_that_may_yet_come_is_waited_for(docker: FakeDocker, make_backend: MakeBackend) -> None:
    node = make_backend().boot(request())
    assert node.ended(0.1) is None
    node.stop()


def test_an_engine_that_is_not_there_is_a_boot_error(tmp_path: Path, make_backend: MakeBackend) -> None:
    backend = make_backend(socket=str(tmp_path / "nowhere"))
    with warnings.catch_warnings():
        # httpx leaves a unix socket that could not be connected to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(BootError, match="no container of app:1 could be started: the Docker Engine at") as caught:
            backend.boot(request())
        assert not caught.value.final
        del caught
        gc.collect()
    assert backend.journal is not None
    assert backend.journal.entries() == []


# -- a parent that was killed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", ["journal", "another"])
@pytest.mark.parametrize("moment", ["/create", "/start", "running"])
def test_the_container_of_a_killed_parent_is_swept(
    docker: FakeDocker,
    make_backend: MakeBackend,
    tmp_path: Path,
    mailbox: Mailbox,
    gate: Gate,
    moment: str,
    journal: str,
) -> None:
    """The Engine has carried the request out, and its answer has not come. Or a call runs.

    The sweep has the journal of the program that was killed, or only the container's labels.
    """
    docker.hanging = [moment]
    command = [sys.executable, "-m", "tests.backends.docker.program"]
    words = [docker.path, str(tmp_path / "journal"), mailbox.path, gate.path]
    with subprocess.Popen([*command, *words]) as parent:
        if moment == "running":
            with watching(int(mailbox.read())) as slots:
                parent.send_signal(signal.SIGKILL)
                assert all(slot.ended(PATIENCE) for slot in slots)
        else:
            assert docker.hangs.wait(PATIENCE)
            parent.send_signal(signal.SIGKILL)
        parent.wait()
    docker.hanging = []
    backend = make_backend(journal=tmp_path / journal)
    (found,) = backend.list_nodes()
    assert (found.liveness, found.in_journal) == (Liveness.GONE, journal == "journal")
    assert [one.name for one in backend.sweep().destroyed] == [found.name]
    assert docker.containers == {}
    assert backend.journal is not None
    assert backend.journal.entries() == []


def test_containers_of_others_are_left_alone(docker: FakeDocker, make_backend: MakeBackend) -> None:
    for name, labels in (("mine", None), ("dragonfly-mine", {"dragonfly_kind": "runner"})):
        config: dict[str, Any] = {"Image": IMAGE, "Cmd": ["python"], "Env": [], "Labels": labels, "HostConfig": {}}
        docker.answer("POST", "/containers/create", {"name": name}, config)
    backend = make_backend()
    assert backend.list_nodes() == []
    assert backend.sweep() == ([], [])
    assert set(docker.containers) == {"mine", "dragonfly-mine"}


def test_the_commands(docker: FakeDocker, make_backend: MakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    node = make_backend().boot(request())
    backend = ["--backend", "docker", "--set", f"socket={docker.path}"]
    assert main(["list", *backend]) == 0
    assert "alive: process" in capsys.readouterr().out
    assert main(["sweep", *backend, "--yes"]) == 0
    assert len(docker.containers) == 1
    assert main(["destroy", *backend, "--yes", "--all"]) == 0
    assert docker.containers == {}
    node.stop()
    image = ["--set", f"image={IMAGE}", "--set", "sync=none"]
    capsys.readouterr()
    assert main(["doctor", *backend, *image]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["create", "ok"], ["start", "ok"], ["connect", "ok"]]
    assert main(["list", *backend, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == []


@pytest.mark.parametrize("name", ["local", "ssh"])
def test_backends_that_leave_nothing_say_so(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["list", "--backend", name])
    assert "leave nothing behind to list" in capsys.readouterr().err


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), (5, 5), ("5", 5), ("2g", 2**31), ("2GiB", 2**31), ("512 MB", 2**29), ("1t", 2**40)]
)
def test_a_size_of_memory(text: Any, size: int | None) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "g", "-1", "1.5g", "1p", 0, "0"])
def test_what_is_no_size_of_memory(text: Any) -> None:
    with pytest.raises(ValueError, match="memory"):
        memory_bytes(text)


def test_the_socket_is_the_users() -> None:
    assert find_socket(None, {}) == "/var/run/docker.sock"
    assert find_socket(None, {"DOCKER_HOST": "unix:///run/user/1/docker.sock"}) == "/run/user/1/docker.sock"
    assert find_socket("/a", {"DOCKER_HOST": "tcp://x:1"}) == "/a"
    with pytest.raises(ValueError, match="Unix socket only"):
        find_socket(None, {"DOCKER_HOST": "tcp://x:1"})


@pytest.mark.parametrize(
    "arguments",
    [{"network": "bridge"}, {"cpus": 0}, {"cpus": True}, {"config": {"Env": []}}, {"config": {"Labels": {}}}],
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"host=|cpus=|config="):
        DockerBackend(IMAGE, journal=False, **arguments)


def test_a_log_that_is_cut_off_is_read_as_far_as_it_goes() -> None:
    assert read_log(b"\x01\0\0\0\0\0\0\x03abc\x02\0\0\0\0\0\0\x09def\x01\0") == b"abcdef\x01\0"
