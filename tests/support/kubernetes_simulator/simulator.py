"""The cluster: a server in a thread of its own, and what a test holds in its hands."""

from __future__ import annotations

import base64
import ipaddress
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from tests.support.kubernetes_simulator.accounts import Account, Right
from tests.support.kubernetes_simulator.api import ApiServer
from tests.support.kubernetes_simulator.door import ApiDoor, Asked, routes
from tests.support.kubernetes_simulator.faults import ServerFaults
from tests.support.kubernetes_simulator.images import IMAGE, images
from tests.support.kubernetes_simulator.nodes import ClusterNode, Nodes
from tests.support.kubernetes_simulator.store import Key, Store
from tests.support.kubernetes_simulator.watching import WatchHub
from tests.support.server_thread import ServerThread

PATIENCE = 30.0
NAMESPACE = "media"
USER = "system:serviceaccount:media:app"
T = TypeVar("T")
Json = dict[str, Any]


class Cluster:
    """A running cluster.

    Attributes:
        url, certificate: of the API server; the certificate as PEM.
        store: the objects.
        nodes: the nodes, with their timing.
        api: the API server.
        hub: its watches.
        faults: what is to go wrong.
        images: the registries; may be added to.
        account, token: the parent's.
        tokens: all tokens that are valid.
        connections: those of clients that are open.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kubernetes-"))
        self.certificate, key = _certificate()
        files = self._folder / "tls.crt", self._folder / "tls.key"
        for file, data in zip(files, (self.certificate, key), strict=True):
            file.write_bytes(data)
        self._server = ServerThread("kubernetes-simulator", self._changed)
        self.connections = self._server.connections
        self.url = f"https://127.0.0.1:{self._server.port}"
        self._registry = images(self._folder)
        self._change = threading.Condition()
        self._changes = 0
        self._set_up()
        paths = routes(lambda: self._door, self.connections.transport)
        self._server.start(paths, ssl_certfile=str(files[0]), ssl_keyfile=str(files[1]))

    # -- what tests do -------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], T], patience: float = PATIENCE) -> T:
        """What `condition()` gives, as soon as that is true; it is asked whenever something has changed.

        Raises:
            AssertionError: it has not come true within so many seconds.
        """
        end = time.monotonic() + patience
        while True:
            seen = self._changes
            # Not under the lock: the condition may ask the simulator's thread, which takes the lock.
            found = condition()
            left = end - time.monotonic()
            if found or left <= 0:
                break
            with self._change:
                self._change.wait_for(lambda before=seen: self._changes != before, left)  # type: ignore[misc]
        assert found, f"it did not come to that: {self.describe()}"
        return found

    def pods(self) -> list[Json]:
        """The Pods of runners."""
        return [pod for pod in self.do(self.store.find, "pods") if "dragonfly-executor/pool" in _labels(pod)]

    def pod(self, ready: Callable[[Json], object] = lambda pod: True) -> Key:
        """The first Pod of a runner for which `ready` holds, as soon as there is one."""
        return _key(self.until(lambda: next((pod for pod in self.pods() if ready(pod)), None)))

    def running(self) -> Key:
        """The first Pod whose container runs, as soon as there is one."""
        return self.pod(lambda pod: pod["status"]["phase"] == "Running")

    def get(self, key: Key) -> Json:
        """An object."""
        return self.do(self.store.get, key)

    def secrets(self) -> list[Json]:
        """All Secrets."""
        return self.do(self.store.find, "secrets")

    def pid(self, key: Key) -> int | None:
        """A Pod's first process."""
        return self.do(self.nodes.pid, key)

    def log(self, key: Key) -> str:
        """What a Pod's processes have written."""
        path = self.nodes.log(key)
        return path.read_text(errors="replace") if path.exists() else ""

    def do(self, step: Callable[..., T], *args: Any) -> T:
        """Do something to the cluster in the simulator's own thread, where nothing else happens meanwhile."""
        return self._server.do(step, *args)

    def add_node(self, node: ClusterNode) -> None:
        """A node joins."""

        def add() -> None:
            self.nodes.nodes[node.name] = node
            self.nodes.schedule_again()

        self.do(add)

    def compact(self) -> None:
        """Forget old events, and end the watches: they must list again."""

        def forget() -> None:
            # Something changes, so that the version that the watches have seen is too old.
            self.store.version += 1
            self.store.compact()
            self.hub.end_all()

        self.do(forget)

    def cut_connections(self) -> None:
        """End all connections that are open now, unannounced."""
        self.do(self.connections.cut)

    @property
    def asked(self) -> list[Asked]:
        """All requests, in order."""
        return self._door.asked

    def go_away(self) -> None:
        """The API server restarts: connections end, and new ones are cut."""
        self._door.is_away = True
        self.cut_connections()

    def come_back(self) -> None:
        """The API server is there again."""
        self._door.is_away = False

    def own_pod(self, name: str) -> Key:
        """The Pod in which the parent itself is said to run."""
        key = ("pods", NAMESPACE, name)

        def make() -> None:
            manifest = {
                "metadata": {"name": name},
                "spec": {"nodeName": "node-1", "containers": [{"name": "app", "image": IMAGE}]},
                "status": {"phase": "Running", "podIP": "127.0.0.1"},
            }
            self.store.add(key, manifest)

        self.do(make)
        return key

    def expire_token(self) -> str:
        """The parent's token expires. Returns its next one."""
        del self.tokens[self.token]
        self.token = secrets.token_hex(16)
        self.tokens[self.token] = self.account
        return self.token

    def kubeconfig(self, *, token: str | None = None, user: Json | None = None) -> str:
        """A kubeconfig for the parent, as text. JSON is YAML."""
        import json

        authority = base64.b64encode(self.certificate).decode()
        server = {"server": self.url, "certificate-authority-data": authority}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "test", "user": user or {"token": token or self.token}}],
        }  # fmt: skip
        return json.dumps(config)

    def describe(self) -> str:
        """All Pods, and all requests, for messages."""
        lines = []
        for pod in self.store.find("pods"):
            log = self.nodes.log(_key(pod))
            text = log.read_text(errors="replace") if log.exists() else ""
            lines.append(f"{pod['metadata']['name']}: {pod['status']}\n{text}")
        asked = ", ".join(f"{one.action} {one.status}" for one in self._door.asked)
        return "\n".join([*lines, f"requests: {asked}"])

    # -- life ----------------------------------------------------------------------------------------------------------

    def reset(self) -> list[str]:
        """End all that runs and begin anew. Returns what went wrong: this simulator's failures, and violations."""
        self._server.run(self._tear_down())
        troubles = self._door.troubles + self.api.violations
        self._set_up()
        return troubles

    def close(self) -> list[str]:
        """End everything. Returns what `reset` does."""
        troubles = self.reset()
        self._server.close()
        shutil.rmtree(self._folder)
        return troubles

    async def _tear_down(self) -> None:
        self.hub.end_all()
        await self._door.close()
        await self.connections.close()
        await self.nodes.close()

    def _set_up(self) -> None:
        self.images = dict(self._registry)
        self.store, self.faults = Store(), ServerFaults()
        self.hub = WatchHub(self.store, self._changed)
        pods = Path(tempfile.mkdtemp(dir=self._folder))
        self.nodes = Nodes(self._server.loop, self.store, self.images, pods)
        self.api = ApiServer(self.store, self.hub, self.nodes.delete)
        self.api.namespaces = {NAMESPACE, "default"}
        self.account = Account(USER, frozenset({NAMESPACE}))
        self.token = secrets.token_hex(16)
        self.tokens = {self.token: self.account}
        self._door = ApiDoor(self.api, self.faults, self.tokens, self._changed)
        self.store.listeners.append(lambda _: self._changed())

    def restrict(self, rights: frozenset[Right]) -> None:
        """The parent's account has these rights, and no others."""
        self.account.rights = rights

    def _changed(self) -> None:
        with self._change:
            self._changes += 1
            self._change.notify_all()


def _labels(pod: Json) -> Json:
    return pod["metadata"].get("labels") or {}


def _key(pod: Json) -> Key:
    return "pods", pod["metadata"]["namespace"], pod["metadata"]["name"]


def _certificate() -> tuple[bytes, bytes]:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    usage = dict.fromkeys((
        "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only",
        "decipher_only",
    ), False)  # fmt: skip
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.public_bytes(Encoding.PEM), pem
