"""The settings of an `SSHBackend`, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from dragonfly_executor.backends.ssh.hosts import port_number, user_name

PathLike = str | Path


class LoginSettings(NamedTuple):
    """The user, the port and the credentials; see `SSHBackend`."""

    user: str | None
    port: int | None
    key_files: list[str]
    passphrase: str | None
    password: str | None
    use_agent: bool

    @classmethod
    def check(
        cls,
        user: str | None,
        port: int | None,
        key_filename: PathLike | Iterable[PathLike] | None,
        passphrase: str | None,
        password: str | None,
        use_agent: bool,
    ) -> LoginSettings:
        """Return the settings. Raises TypeError or ValueError if one is invalid."""
        return cls(user_name(user), port_number(port), _texts(key_filename), passphrase, password, use_agent)

    def __repr__(self) -> str:
        # Leave out password and passphrase, as they are secret.
        return f"LoginSettings(user={self.user!r}, port={self.port!r})"


class HostKeySettings(NamedTuple):
    """The host keys to trust; see `SSHBackend`.

    Attributes:
        files: known_hosts files; None for the user's and the system's.
        pinned: keys that every host may show.
        accept_any: whether to accept any host key.
    """

    files: list[str] | None
    pinned: list[str]
    accept_any: bool

    @classmethod
    def check(
        cls, known_hosts: PathLike | Iterable[PathLike] | None, host_key: str | Iterable[str] | None, accept_any: bool
    ) -> HostKeySettings:
        """Return the settings."""
        return cls(None if known_hosts is None else _texts(known_hosts), _texts(host_key), accept_any)


class SSHSettings(NamedTuple):
    """The connection and runner settings of a backend; see `SSHBackend`.

    Attributes:
        config: the SSH configuration file; None for no file.
        is_direct: whether runners connect to this machine.
    """

    config: str | None
    login: LoginSettings
    host_keys: HostKeySettings
    connect_timeout: float
    python: str | None
    env: Mapping[str, str]
    cache: str | None
    is_direct: bool
    client: str

    def __repr__(self) -> str:
        # Leave out env, as it may be secret.
        return f"SSHSettings(config={self.config!r}, login={self.login!r})"


def _texts(value: PathLike | Iterable[PathLike] | None) -> list[str]:
    """Return one or several texts or paths as a list of texts."""
    if value is None:
        return []
    return [str(value)] if isinstance(value, str | Path) else [str(item) for item in value]
