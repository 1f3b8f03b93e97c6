"""A Docker Engine as far as a backend speaks with it: HTTP over a unix socket, and a real process for each container.

Paths, statuses, messages and the framing of logs are those of the Engine API 1.44. A container's process has the
environment that the container was given, a home of its own, and nothing of its parent's besides.
"""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dragonfly_executor.runner import process_tree
from tests.support.census import MARK

VERSION = "/v1.44"
IMAGE = "app:1"


class ErrorResponse(Exception):
    """An error answer of the engine."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class Container:
    """A container that is created, running or ended."""

    def __init__(self, name: str, config: dict[str, Any], folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.created = int(time.time())
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._mark = f"FAKE_CONTAINER={name}"
        folder.mkdir()

    def start(self) -> None:
        command = self.config["Cmd"]
        assert command[0] == "python"
        given = dict(entry.split("=", 1) for entry in [*self.config["Env"], self._mark])
        kept = {name: os.environ[name] for name in ("PATH", MARK)}
        # Its /tmp is its own, and goes with it, whatever it had no time to clear away.
        (self.folder / "tmp").mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command[1:]],
                env={**kept, "HOME": str(self.folder), "TMPDIR": str(self.folder / "tmp"), **given},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def status(self) -> str:
        """Return the Engine's word for the state."""
        if self.process is None:
            return "created"
        return "running" if self.process.poll() is None else "exited"

    def running(self) -> list[int]:
        """Return all processes of the container, which end when its first process ends."""
        if self.process is None:
            return []
        ended = self.process.poll() is not None
        found = process_tree.members([self.process.pid], self._mark.encode())
        return [pid for pid in found if not (ended and pid == self.process.pid)]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        while left := self.running():
            for pid in left:
                process_tree.kill(pid)


class FakeDocker(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The engine; `stop` ends it and everything in it.

    Attributes:
        containers: by name, those that exist.
        asked: every request, as "METHOD path".
        broken: "METHOD path" beginnings, and how many more requests of that kind are cut off after they were served.
        hanging: ends of paths whose requests are served and never answered.
        hangs: set when there is such a request.
    """

    daemon_threads = False

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "docker.sock")
        self.containers: dict[str, Container] = {}
        self.asked: list[str] = []
        self.broken: dict[str, int] = {}
        self.hanging: list[str] = []
        self.hangs = threading.Event()
        self._folder = folder
        self._lock = threading.Lock()
        super().__init__(self.path, Handler)
        self._thread = threading.Thread(target=self.serve_forever, name="fake-docker", kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        for container in self.containers.values():
            container.kill()

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, bytes]:
        """Return the engine's answer: a status and a body."""
        with self._lock:
            self.asked.append(f"{method} {path}")
            match method, path.strip("/").split("/"):
                case "POST", ["containers", "create"]:
                    return self._create(query["name"], body)
                case "GET", ["containers", "json"]:
                    return self._list(query)
                case "GET", ["containers", name, "json"]:
                    found = self._find(name)
                    config = {"Image": found.config["Image"], "Labels": found.config["Labels"]}
                    return 200, json.dumps(
                        {"Name": f"/{name}", "Config": config, "State": {"Status": found.status}}
                    ).encode()
                case "POST", ["containers", name, "start"]:
                    self._find(name).start()
                    return 204, b""
                case "POST", ["containers", name, "wait"]:
                    waited_for = self._find(name)
                case "DELETE", ["containers", name]:
                    return self._remove(name, query)
                case "GET", ["containers", name, "logs"]:
                    assert query["stdout"] == query["stderr"] == "true"
                    lines = self._find(name).log.read_bytes().splitlines(keepends=True)[-int(query["tail"]) :]
                    return 200, b"".join(b"\x02\0\0\0" + len(line).to_bytes(4) + line for line in lines)
                case _:
                    raise ErrorResponse(404, "page not found")
        # Only this request blocks.
        assert query.get("condition", "not-running") == "not-running", "nobody would remove it meanwhile"
        assert waited_for.process is not None
        return 200, json.dumps({"StatusCode": waited_for.process.wait()}).encode()

    def _find(self, name: str) -> Container:
        if name not in self.containers:
            raise ErrorResponse(404, f"No such container: {name}")
        return self.containers[name]

    def _list(self, query: dict[str, str]) -> tuple[int, bytes]:
        """List containers with these labels, the newest first."""
        wanted = [label.partition("=") for label in json.loads(query["filters"])["label"]]
        assert query["all"] == "true"
        found = [
            {
                "Id": name * 3,
                "Names": [f"/{name}"],
                "Image": container.config["Image"],
                "Labels": container.config["Labels"],
                "State": container.status,
                "Created": container.created,
            }
            for name, container in reversed(self.containers.items())
            if all((container.config["Labels"] or {}).get(key) == value for key, _, value in wanted)
        ]
        return 200, json.dumps(found).encode()

    def _create(self, name: str, config: dict[str, Any]) -> tuple[int, bytes]:
        if config["Image"] != IMAGE:
            raise ErrorResponse(404, f"No such image: {config['Image']}")
        if name in self.containers:
            raise ErrorResponse(409, f'Conflict. The container name "/{name}" is already in use by container "{name}".')
        assert set(config) <= {"Image", "Cmd", "Env", "Labels", "HostConfig"}
        assert set(config["HostConfig"]) <= {"NetworkMode", "Init", "Memory", "NanoCpus", "DeviceRequests"}
        self.containers[name] = Container(name, config, self._folder / name)
        return 201, json.dumps({"Id": name * 3, "Warnings": []}).encode()

    def _remove(self, name: str, query: dict[str, str]) -> tuple[int, bytes]:
        container = self._find(name)
        if container.running() and query.get("force") != "true":
            raise ErrorResponse(409, f"cannot remove container {name}: container is running")
        container.kill()
        shutil.rmtree(container.folder)
        del self.containers[name]
        return 204, b""


class Handler(BaseHTTPRequestHandler):
    """A handler of one connection."""

    protocol_version = "HTTP/1.1"
    server: FakeDocker

    def _serve(self) -> None:
        url = urlsplit(self.path)
        assert url.path.startswith(VERSION + "/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        path = url.path.removeprefix(VERSION)
        try:
            status, content = self.server.answer(self.command, path, query, json.loads(body) if body else None)
        except ErrorResponse as refusal:
            status, content = refusal.status, json.dumps({"message": refusal.message}).encode()
        for beginning, left in self.server.broken.items():
            if left and f"{self.command} {path}".startswith(beginning):
                self.server.broken[beginning] -= 1
                self.close_connection = True
                return
        if path.endswith(tuple(self.server.hanging)):
            self.server.hangs.set()
            self.rfile.read(1)  # until the client ends the connection
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        # The client may have closed its connection.
        with suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Log nothing: a failing test shows enough."""
