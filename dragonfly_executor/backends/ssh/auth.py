"""Authentication of the user: keys of an agent, key files with their certificates, a password."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

import paramiko
from paramiko.pkey import PublicBlob

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ssh.config import Target
from dragonfly_executor.backends.ssh.ssh_agent import SSHAgent, agent_path
from dragonfly_executor.errors import BootError

DEFAULT_KEY_FILES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
Method = tuple[str, Callable[[paramiko.Transport], list[str]]]
"""Its name for errors, and a function that tries it and returns further methods that the server demands, if any."""


class Credentials:
    """The credentials for hosts.

    Args:
        key_files: private keys, which are tried before those of the configuration.
        passphrase: of encrypted key files.
        password: tried last. Jump hosts never get it.
        use_agent: whether to use the keys of an SSH agent.
    """

    def __init__(
        self,
        key_files: Iterable[str] = (),
        passphrase: str | None = None,
        password: str | None = None,
        *,
        use_agent: bool = True,
    ) -> None:
        self._key_files = tuple(key_files)
        self._passphrase = None if passphrase is None else passphrase.encode()
        self._password = password
        self._use_agent = use_agent

    def __repr__(self) -> str:
        return f"Credentials(key_files={self._key_files!r})"

    def without_password(self) -> Credentials:
        """Return credentials without the password, for jump hosts."""
        passphrase = None if self._passphrase is None else self._passphrase.decode()
        return Credentials(self._key_files, passphrase, use_agent=self._use_agent)

    def log_in(self, transport: paramiko.Transport, target: Target, boot: Deadline, timeout: float) -> None:
        """Try all methods in order until the host accepts one.

        Args:
            transport: a paramiko transport.
            target: the host.
            boot: the deadline of the boot.
            timeout: seconds for all methods together.

        Raises:
            BootError: the host accepted none; phase "auth". The text lists the methods, without secrets.
        """
        tried: list[str] = []
        deadline = Deadline(boot.step_timeout(timeout))
        agent = self._agent(target, boot, tried)
        # paramiko signs on the transport's thread, so closing the transport does not end a wait for the agent.
        with boot.ending(agent.cut) if agent is not None else nullcontext():
            self._try(transport, target, agent, tried, deadline, timeout)

    def _try(
        self,
        transport: paramiko.Transport,
        target: Target,
        agent: SSHAgent | None,
        tried: list[str],
        deadline: Deadline,
        timeout: float,
    ) -> None:
        try:
            for name, method in self._methods(agent, target, tried):
                if agent is not None:
                    agent.allow(deadline.step_timeout())
                transport.auth_timeout = deadline.step_timeout()
                try:
                    wanted = method(transport)
                except paramiko.BadAuthenticationType as error:
                    tried.append(f"{name}: the host takes only {', '.join(error.allowed_types)}")
                except paramiko.AuthenticationException:
                    # paramiko raises the same error for a refusal, a timeout and a lost connection.
                    tried.append(f"{name}: {_why(transport, deadline, timeout)}")
                except Exception as error:  # any error of paramiko or of the connection below it
                    tried.append(f"{name}: {type(error).__name__}: {error}".rstrip(": "))
                else:
                    if transport.is_authenticated() and not wanted:
                        return
                    tried.append(f"{name}: accepted, but the host also wants {', '.join(wanted)}")
                if deadline.is_over or not transport.is_active():
                    break
        finally:
            if agent is not None:
                agent.close()
        said = "; ".join(tried) or "there is no key, no agent and no password to try: give key_filename="
        raise BootError(f"{target.label} does not let {target.user} in: {said}", "auth")

    def _agent(self, target: Target, boot: Deadline, tried: list[str]) -> SSHAgent | None:
        path = agent_path(target.agent) if self._use_agent else None
        if not path:
            return None
        try:
            return SSHAgent(path, boot)
        except (paramiko.SSHException, OSError) as error:
            tried.append(f"the SSH agent at {path} does not answer: {error}")
            return None

    def _methods(self, agent: SSHAgent | None, target: Target, tried: list[str]) -> Iterator[Method]:
        """Yield all methods to try. Add methods that cannot be tried to `tried`.

        The user's own keys come first: a host limits the number of attempts, and an agent may hold more keys than that.
        """
        yield from self._by_files(self._key_files, target, tried)
        named = (*self._key_files, *target.key_files)
        if agent is not None:
            keys = [(_is_one_of(named, key), key) for key in agent.get_keys()]
            for fits, key in sorted(keys, key=lambda entry: not entry[0]):
                if fits or not target.identities_only:
                    yield f"the agent's {key.get_name()} key", _by_key(target.user, key)
        if target.key_files or target.identities_only:
            yield from self._by_files(target.key_files, target, tried)
        elif not self._key_files:
            there = [file for file in DEFAULT_KEY_FILES if Path(file).expanduser().is_file()]
            yield from self._by_files(there, target, tried)
        if self._password is not None:
            password = self._password
            yield "password", lambda transport: transport.auth_password(target.user, password)

    def _by_files(self, files: Iterable[str], target: Target, tried: list[str]) -> Iterator[Method]:
        for file in files:
            path = Path(file).expanduser()
            if path.suffix == ".pub":
                continue  # a public key only selects one of the agent's keys
            try:
                key = _load(path, self._passphrase)
            except Exception as error:  # paramiko and cryptography raise many types, also TypeError
                tried.append(f"{file} cannot be used: {_without_secrets(error)}")
                continue
            _certify(key, target.certificate_files, tried)
            yield str(file), _by_key(target.user, key)


def _why(transport: paramiko.Transport, deadline: Deadline, timeout: float) -> str:
    """Return the reason why a host refused the login."""
    if not transport.is_active():
        return "the connection ended before the host had answered"
    return f"no answer within {timeout:.3g} s" if deadline.is_over else "refused"


def _load(path: Path, passphrase: bytes | None) -> paramiko.PKey:
    """Load a key, with the certificate next to it if there is one. Use the passphrase only for an encrypted key."""
    try:
        return paramiko.PKey.from_path(path, None)
    except (TypeError, paramiko.PasswordRequiredException):
        if passphrase is None:
            raise
    return paramiko.PKey.from_path(path, passphrase)  # pyright: ignore[reportArgumentType]  # bytes will do


def _certify(key: paramiko.PKey, files: Iterable[str], tried: list[str]) -> None:
    """Attach to a key the certificate that was made for it, if one of the files holds that certificate."""
    for file in files:
        try:
            blob = PublicBlob.from_file(str(Path(file).expanduser()))
            certified = paramiko.Message(blob.key_blob)
            certified.get_text()  # its type
            certified.get_binary()  # a nonce
            # In a certificate, the fields after the nonce equal the key's fields after its type.
            own = paramiko.Message(key.asbytes())
            own.get_text()
            if certified.get_remainder().startswith(own.get_remainder()):
                key.load_certificate(str(Path(file).expanduser()))
                return
        except Exception as error:  # paramiko raises many types for a file that is no certificate
            tried.append(f"the certificate {file} cannot be used: {type(error).__name__}")


def _by_key(user: str, key: paramiko.PKey) -> Callable[[paramiko.Transport], list[str]]:
    return lambda transport: transport.auth_publickey(user, key)


def _is_one_of(files: Iterable[str], key: paramiko.PKey) -> bool:
    """Return True if a key of the agent belongs to one of the files. Only the public file is needed for that."""
    for file in files:
        public = Path(file if file.endswith(".pub") else f"{file}.pub").expanduser()
        try:
            words = public.read_text(encoding="utf-8", errors="replace").split()
        except OSError:
            continue
        if len(words) > 1 and words[1] == key.get_base64():
            return True
    return False


def _without_secrets(error: Exception) -> str:
    """Return the fault of a key file as a text that contains nothing from the file."""
    if isinstance(error, paramiko.PasswordRequiredException | TypeError):
        return "it has a passphrase: give passphrase=, or add it to an agent"
    if isinstance(error, OSError):
        return str(error)
    return f"{type(error).__name__} (wrong passphrase, or a type of key that is not supported)"
