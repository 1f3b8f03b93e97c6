"""The API server's address, and this program's credentials for it, as lightkube finds them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from dragonfly_executor.protocol.versions import __version__

if TYPE_CHECKING:
    from lightkube import SingleConfig

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
DEFAULT_KUBECONFIG = "~/.kube/config"
NEEDS_LIGHTKUBE = "KubernetesBackend needs lightkube: pip install 'dragonfly-executor[kubernetes]'"


class ClusterAccess(NamedTuple):
    """A cluster, and what a client of it needs.

    Attributes:
        server: the URL of the API server.
        namespace: the namespace of the runners.
        own_namespace: the namespace of this program's own Pod; "" outside of the cluster.
        source: where the credentials come from, for people.
        settings: keyword arguments of an httpx2 client: certificates, credentials, proxies. Never shown.
    """

    server: str
    namespace: str
    own_namespace: str
    source: str
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"ClusterAccess({self.server!r}, namespace={self.namespace!r}, source={self.source!r})"

    @staticmethod
    def find(
        environment: Mapping[str, str],
        *,
        kubeconfig: str | os.PathLike[str] | None = None,
        context: str | None = None,
        namespace: str | None = None,
    ) -> ClusterAccess:
        """Find the cluster: the file in `kubeconfig` or KUBECONFIG, then this Pod's account, then ~/.kube/config.

        Raises:
            ImportError: lightkube is not installed.
            ValueError: there is no cluster, or its configuration is damaged.
        """
        try:
            from lightkube import ConfigError
            from lightkube.config.client_adapter import ConnectionParams
        except ImportError as error:
            raise ImportError(NEEDS_LIGHTKUBE) from error
        try:
            config, source, own = _configuration(environment, kubeconfig, context)
            if config.user is None:
                raise ValueError(f"the context {config.context_name!r} in {source} names no user")
            settings = ConnectionParams().httpx_params(config)
            if config.user.exec:
                settings["auth"] = _program_credentials(config.user.exec, config.fname)
        except (ConfigError, OSError) as error:
            raise ValueError(f"cannot find a Kubernetes cluster: {error}") from None
        except (KeyError, TypeError, AttributeError, AssertionError) as error:
            # The text of an error of the parser may quote credentials.
            raise ValueError(f"the kubeconfig is damaged ({type(error).__name__})") from None
        settings.pop("timeout", None)
        url = config.cluster.server
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"{source} has {url!r} for the cluster, which is no http or https URL")
        return ClusterAccess(url.rstrip("/"), namespace or config.namespace, own, source, settings)

    def client(self) -> Any:
        """Return an httpx2 client for one connection."""
        import httpx2

        headers = {
            "User-Agent": f"dragonfly-executor/{__version__}",
            "Accept": "application/json",
            # Not compressed: a decompressed body has no size limit.
            "Accept-Encoding": "identity",
        }
        limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1)
        return httpx2.Client(**{**self.settings, "base_url": self.server, "headers": headers, "limits": limits})

    def own_address(self) -> str:
        """Return this machine's address on the way to the API server, which Pods of the cluster often reach.

        Raises:
            OSError: there is no way to the API server.
        """
        parts = urlsplit(self.server)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            way.connect(address)  # UDP: nothing is sent
            return str(way.getsockname()[0])


def _program_credentials(described: Any, file: Path | None) -> Any:
    """Return the credentials that the kubeconfig's program prints, in place of lightkube's.

    Args:
        described: lightkube's reading of the entry ``exec``.
        file: the kubeconfig.
    """
    from dragonfly_executor.backends.kubernetes.credentials import ProgramCredentials, TokenProgram

    return ProgramCredentials(TokenProgram.of(described, None if file is None else file.absolute().parent))


def _configuration(
    environment: Mapping[str, str], kubeconfig: str | os.PathLike[str] | None, context: str | None
) -> tuple[SingleConfig, str, str]:
    """Return the configuration, where it comes from, and the namespace of this program's own Pod."""
    from lightkube import KubeConfig

    own = ""
    with suppress(OSError):
        own = Path(SERVICE_ACCOUNT, "namespace").read_text().strip()
    path = kubeconfig or environment.get("KUBECONFIG", "")
    if not path and own and "KUBERNETES_SERVICE_HOST" in environment:
        config = KubeConfig.from_service_account(SERVICE_ACCOUNT).get()
        source = "this Pod's service account"
    else:
        if os.pathsep in str(path):
            raise ValueError("KUBECONFIG names several files, and this backend reads one: name it with kubeconfig=")
        file = Path(path or DEFAULT_KUBECONFIG).expanduser()
        if not file.is_file():
            raise ValueError(
                f"there is no Kubernetes cluster: this is no Pod with a service account, and there is no file {file}. "
                "Name one with kubeconfig= or KUBECONFIG"
            )
        config, source = KubeConfig.from_file(file).get(context), str(file)
    if config is None:
        raise ValueError(f"{source} has no current context: name one with context=")
    return config, source, own
