"""An EC2 for tests: moto's server, and a real process for each instance, started from its user data.

moto plays the API: states, tags, filters, errors of arguments. It runs in a process of its own. A proxy before it adds
what moto lacks: instances that do something, client tokens, and faults. An instance's process has the environment that
cloud-init gives to user data, its own folder, a ``shutdown`` of its own, and no more.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode

from dragonfly_executor.runner import process_tree
from tests.support.census import MARK

REGION = "us-east-1"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "canary-of-aws", "AWS_DEFAULT_REGION": REGION}
START_TIMEOUT = 100.0
ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>r</RequestID></Response>"""
SHUTDOWN = """#!/bin/sh
echo "$*" >> "$HOME/shutdowns"
"""


class Fault(NamedTuple):
    """A rule for requests.

    Attributes:
        action: the requests, such as "RunInstances".
        code: the error that is answered instead; "" for none.
        loses: "before" or "after" moto has carried the request out, the connection ends; "" for never.
        hangs: the same, and the connection stays open.
        call: called at that moment.
        where: which of these requests.
    """

    action: str
    code: str = ""
    loses: str = ""
    hangs: str = ""
    call: Callable[[], object] = lambda: None
    where: Callable[[dict[str, str]], bool] = lambda fields: True


class PlayedInstance:
    """The process of an instance."""

    def __init__(self, instance_id: str, script: str, folder: Path, bin_folder: Path, metadata: str) -> None:
        self.instance_id = instance_id
        self.folder = folder
        self.mark = f"EC2_INSTANCE={instance_id}"
        (folder / "tmp").mkdir(parents=True)
        (folder / "user-data").write_text(script)
        name, _, value = self.mark.partition("=")
        with (folder / "console").open("wb") as console:
            self.process = subprocess.Popen(
                ["sh", str(folder / "user-data")],
                env={
                    "PATH": f"{bin_folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME": str(folder),
                    "TMPDIR": str(folder / "tmp"),
                    "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata,
                    MARK: os.environ[MARK],
                    name: value,
                },
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End all processes, as a host that loses its power does."""
        self.process.kill()
        while left := [pid for pid in self.pids() if pid != self.process.pid]:
            for pid in left:
                process_tree.kill(pid)
        self.process.wait()

    def pids(self) -> list[int]:
        """Return the processes of the instance."""
        return list(process_tree.members([self.process.pid], self.mark.encode()))

    def shutdowns(self) -> list[str]:
        """Return the arguments of each call of ``shutdown``."""
        with suppress(FileNotFoundError):
            return (self.folder / "shutdowns").read_text().splitlines()
        return []


class EC2World:
    """A region. `stop` ends it and everything in it.

    Attributes:
        url: the URL of the API.
        faults: rules for the next requests; each is used once, unless it is in `standing`.
        standing: rules for all requests.
        requests: the fields of all requests.
        hung: set when a request hangs.
        notice: whether EC2 has given notice to the spot instances.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[Fault] = []
        self.standing: list[Fault] = []
        self.requests: list[dict[str, str]] = []
        self.hung = threading.Event()
        self.notice = False
        self.played: dict[str, PlayedInstance] = {}
        self.over = threading.Event()
        self._lock = threading.RLock()
        self._tokens: dict[str, tuple[dict[str, str], bytes]] = {}
        self._waiters: list[threading.Thread] = []
        self._bin = folder / "bin"
        self._bin.mkdir()
        (self._bin / "shutdown").write_text(SHUTDOWN)
        (self._bin / "shutdown").chmod(0o755)
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self._moto_port = free.getsockname()[1]
        self._log = (folder / "moto.log").open("wb")
        self._moto = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._moto_port)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self._await_moto()
        self._proxy = _Proxy(("127.0.0.1", 0), _Handler)
        self._proxy.world = self
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"
        self._thread = threading.Thread(target=self._proxy.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def _await_moto(self) -> None:
        end = time.monotonic() + START_TIMEOUT
        while True:
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self._moto_port), 1.0)):
                return
            assert self._moto.poll() is None, (self.folder / "moto.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)  # moto tells nobody when it is ready

    def stop(self) -> None:
        """End the region."""
        self.over.set()
        for instance in list(self.played.values()):
            instance.kill()
        for waiter in self._waiters:
            waiter.join()
        self._proxy.shutdown()
        self._thread.join()
        self._proxy.server_close()
        self._moto.send_signal(signal.SIGTERM)
        try:
            self._moto.wait(10)
        except subprocess.TimeoutExpired:
            self._moto.kill()
            self._moto.wait()
        self._log.close()

    def reset(self) -> None:
        """Forget faults and requests, and terminate what is left."""
        self.faults.clear()
        self.standing.clear()
        self.requests.clear()
        self.hung.clear()
        self.notice = False
        for instance_id in self.left():
            self.terminate(instance_id)

    # -- what a test sees ----------------------------------------------------------------------------------------------

    def ask(self, **fields: str) -> bytes:
        """Ask moto itself."""
        status, answer = self._forward(dict(fields))
        assert status == 200, answer
        return answer

    def states(self) -> dict[str, str]:
        """Return the states of all instances, by id."""
        text = self.ask(Action="DescribeInstances", Version="2016-11-15").decode()
        return dict(
            re.findall(r"<instanceId>(i-\w+)</instanceId>.*?<instanceState>.*?<name>([\w-]+)</name>", text, re.DOTALL)
        )

    def left(self) -> list[str]:
        """Return the instances that cost money."""
        return [one for one, state in self.states().items() if state not in ("terminated", "shutting-down")]

    def terminate(self, instance_id: str) -> None:
        """Terminate an instance, as EC2 does it by itself."""
        self.ask(Action="TerminateInstances", Version="2016-11-15", **{"InstanceId.1": instance_id})
        self.played[instance_id].kill()

    def wait_until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until `holds` returns something true."""
        end = time.monotonic() + START_TIMEOUT
        while not holds():
            assert time.monotonic() < end, f"{what} did not come"
            time.sleep(0.05)  # moto tells nobody what has changed

    # -- requests ------------------------------------------------------------------------------------------------------

    def answer(self, body: bytes, cut: Callable[[], object], hang: Callable[[], object]) -> tuple[int, bytes] | None:
        """Answer a request; None if its connection was ended."""
        fields = {name: values[-1] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
        with self._lock:
            self.requests.append(fields)
            fault = self._fault_of(fields)
        if fault is not None and "before" in (fault.loses, fault.hangs):
            return self._lose(fault, cut, hang)
        if fault is not None and fault.code:
            fault.call()
            return 400 if not fault.code.startswith("Internal") else 500, _error(fault.code)
        status, answer = self._carry_out(fields)
        if fault is not None and "after" in (fault.loses, fault.hangs):
            return self._lose(fault, cut, hang)
        return status, answer

    def _lose(self, fault: Fault, cut: Callable[[], object], hang: Callable[[], object]) -> None:
        fault.call()
        self.hung.set()
        if fault.loses:
            cut()
        else:
            hang()

    def _fault_of(self, fields: dict[str, str]) -> Fault | None:
        for rules in (self.faults, self.standing):
            for fault in rules:
                if fault.action == fields["Action"] and fault.where(fields):
                    if rules is self.faults:
                        rules.remove(fault)
                    return fault
        return None

    def _carry_out(self, fields: dict[str, str]) -> tuple[int, bytes]:
        if fields["Action"] == "RunInstances":
            return self._run_instances(fields)
        status, answer = self._forward(fields)
        if status == 200 and fields["Action"] == "TerminateInstances":
            for instance_id in re.findall(r"<instanceId>(i-\w+)</instanceId>", answer.decode()):
                self.played[instance_id].kill()
        return status, answer

    def _run_instances(self, fields: dict[str, str]) -> tuple[int, bytes]:
        # moto takes client tokens for decoration.
        with self._lock:
            token = fields["ClientToken"]
            if token in self._tokens:
                known, answer = self._tokens[token]
                same = {**known, "UserData": ""} == {**fields, "UserData": ""}
                return (200, answer) if same else (400, _error("IdempotentParameterMismatch"))
            status, answer = self._forward(fields)
            if status != 200:
                return status, answer
            self._tokens[token] = fields, answer
            for instance_id in re.findall(r"<instanceId>(i-\w+)</instanceId>", answer.decode()):
                script = base64.b64decode(fields["UserData"]).decode()
                played = PlayedInstance(instance_id, script, self.folder / instance_id, self._bin, self.url)
                self.played[instance_id] = played
                waiter = threading.Thread(target=self._await_end, args=(played,), name=f"ec2-{instance_id}")
                self._waiters.append(waiter)
                waiter.start()
            return status, answer

    def _await_end(self, played: PlayedInstance) -> None:
        """Carry out the instance's own ``shutdown -h now``, as its shutdown behavior says."""
        played.process.wait()
        if "-h now" in played.shutdowns() and not self.over.is_set():
            self.terminate(played.instance_id)

    def _forward(self, fields: dict[str, str]) -> tuple[int, bytes]:
        headers = {
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
            "Authorization": f"AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260101/{REGION}/ec2/aws4_request, Signature=0",
        }
        with closing(http.client.HTTPConnection("127.0.0.1", self._moto_port, timeout=30)) as connection:
            connection.request("POST", "/", urlencode(fields), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()


def _error(code: str) -> bytes:
    return ERROR.format(code=code, message=f"as a test wants it: {code}").encode()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = False
    world: EC2World


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.world.answer(body, lambda: None, self._hang)
        self.close_connection = True
        if answer is not None:
            self._reply(*answer, "text/xml")

    def do_PUT(self) -> None:
        """Give a token of the metadata service."""
        self._reply(200, b"token-of-the-metadata", "text/plain")

    def do_GET(self) -> None:
        """Answer as the metadata service."""
        assert self.headers["X-aws-ec2-metadata-token"] == "token-of-the-metadata"
        if self.path == "/latest/meta-data/spot/instance-action" and self.server.world.notice:
            self._reply(200, json.dumps({"action": "terminate"}).encode(), "application/json")
        else:
            self._reply(404, b"", "text/plain")

    def _hang(self) -> None:
        # Until the client ends the connection.
        with suppress(OSError):
            self.rfile.read(1)

    def _reply(self, status: int, content: bytes, kind: str) -> None:
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""
