"""Runners in Docker containers: a complete backend, as an example of how to write one (docs/backends.md).

    with DragonflyExecutor(backend=DockerBackend("my-app:latest"), max=3) as executor:
        print(list(executor.map(work, range(100))))

It talks to the Docker Engine over its unix socket. The image needs this program's minor version of Python, and this
package: ``RUN pip install dragonfly-executor``. The runner dials back. By default the container shares this machine's
network, and the runner dials back over loopback.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from tenacity import retry, stop_after_attempt, wait_random_exponential

from dragonfly_executor import Backend, BootError
from dragonfly_executor.backends.base import BootRequest, Node
from dragonfly_executor.backends.request_abort import cut_by
from dragonfly_executor.parent import VARIABLE
from dragonfly_executor.sync import Sync

API = "http://docker/v1.44"


class DockerBackend(Backend):
    """Boots a container for each runner.

    Args:
        image: has to be on this machine already.
        socket: where the Docker Engine listens.
        host: the address of this machine that the containers can reach; the pool listens there.
        env: variables that the runners get.
        host_config: more of the Engine's ``HostConfig``, such as ``{"NanoCpus": 2_000_000_000, "Memory": 2**31}``, or
            ``{"NetworkMode": "bridge"}``, which needs `host`.
        sync, requirements: what of this program travels, and which packages are installed; as in `Sync`.
    """

    name = "docker"
    phases = ("create", "start", "connect", "handshake", "sync")
    dials_back = True

    def __init__(
        self,
        image: str,
        *,
        socket: str = "/var/run/docker.sock",
        host: str = "127.0.0.1",
        env: Mapping[str, str] | None = None,
        host_config: Mapping[str, Any] | None = None,
        sync: str | Iterable[str] | None = "auto",
        requirements: Iterable[str] | None = None,
    ) -> None:
        self.sync = Sync(sync, requirements=requirements)
        self._engine = Engine(socket)
        self._image, self._host = image, host
        self._env = dict(env or {})
        self._host_config = {"NetworkMode": "host", "Init": True, **(host_config or {})}

    def listen_address(self) -> tuple[str, int]:
        """Return the address at which containers reach this machine."""
        return self._host, 0

    def boot(self, request: BootRequest) -> Node:
        """Create a container and start it."""
        # The name is chosen before the request, so the container can be removed even if the answer is lost.
        node = DockerNode(self._engine, f"dragonfly-{os.urandom(8).hex()}")
        parent, environment = request.parent, {**self._env, VARIABLE: request.parent.encode()}
        config = {
            "Image": self._image,
            "Cmd": ["python", "-P", "-m", "dragonfly_executor.runner"],
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "Labels": {"dragonfly.pool": parent.pool, "dragonfly.parent": f"{parent.host}:{parent.pid}"},
            "HostConfig": self._host_config,
        }
        # If the pool gives up the boot, it does not wait for the Engine's answer.
        phase, cut = "create", {"trace": cut_by(request.given_up)}
        try:
            self._engine.ask("POST", "/containers/create", params={"name": node.name}, json=config, extensions=cut)
            phase = "start"
            self._engine.ask("POST", f"/containers/{node.name}/start", extensions=cut)
        except httpx.HTTPError as error:
            if not isinstance(error, httpx.ConnectError):
                node.stop()
            raise BootError(f"no container of {self._image} could be started: {error}", phase) from error
        return node


class DockerNode(Node):
    """A container. It exists until `stop`, even after it has ended, so that its last output can be read."""

    shares_disk = False

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name

    def stop(self) -> None:
        """Kill and remove the container. Succeeds if there is none."""
        try:
            self._remove()
        except httpx.HTTPError as error:
            logging.getLogger("dragonfly_executor").warning("container %s may still be there: %s", self.name, error)

    @retry(stop=stop_after_attempt(3), wait=wait_random_exponential(0.2, max=2), reraise=True)
    def _remove(self) -> None:
        # 409: another request is removing it. Wait for the end.
        self._engine.ask("DELETE", f"/containers/{self.name}", fine=(404, 409), params={"force": True, "v": True})
        self._engine.ask("POST", f"/containers/{self.name}/wait", fine=(404,), params={"condition": "removed"})

    def ended(self, wait: float) -> BootError | None:
        """Return an error if the container has ended before its runner has dialed back."""
        try:
            answer = self._engine.ask("POST", f"/containers/{self.name}/wait", timeout=wait)
        except httpx.TimeoutException:
            return None
        except httpx.HTTPError as error:
            return BootError(f"the state of the container is unknown: {error}", "connect")
        status = answer.json()["StatusCode"]
        return BootError(f"the container ended with status {status}", "connect", output=self.output())

    def output(self) -> str:
        """Return the last lines of its log."""
        what = {"stdout": True, "stderr": True, "tail": 20}
        try:
            log = self._engine.ask("GET", f"/containers/{self.name}/logs", params=what).content
        except httpx.HTTPError:
            return ""
        text = b""
        while log:
            # One byte for the stream, three bytes of padding, four bytes for the length, and the data.
            end = 8 + int.from_bytes(log[4:8])
            text, log = text + log[8:end], log[end:]
        return text.decode(errors="replace").strip()


class Engine:
    """The Docker Engine. Each request has a connection of its own, so none stays open between them."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def ask(self, method: str, path: str, *, fine: tuple[int, ...] = (), **options: Any) -> httpx.Response:
        """Return the answer. Raise `httpx.HTTPError` with the Engine's text if the status is an error not in `fine`."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=self._socket), base_url=API, timeout=60.0) as client:
            answer = client.request(method, path, **options)
        if answer.is_error and answer.status_code not in fine:
            text = f"{method} {path}: {answer.status_code} {answer.text.strip()}"
            raise httpx.HTTPStatusError(text, request=answer.request, response=answer)
        return answer
