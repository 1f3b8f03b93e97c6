"""Verification of host keys, by known_hosts files and by keys that the user names.

The parser is our own. paramiko's parser uses only the first line of a host, and supports neither patterns nor revoked
keys.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from dragonfly_executor.errors import HostKeyError

SYSTEM_FILES = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
USER_FILES = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")


def fingerprint(blob: bytes) -> str:
    """Return the SHA-256 fingerprint of a public key in OpenSSH's format."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def parse_key(text: str) -> bytes:
    """Parse the key of an OpenSSH ``.pub`` file or of a known_hosts line. Raises ValueError if there is none."""
    for word in text.split():
        try:
            blob = base64.b64decode(word, validate=True)
        except (binascii.Error, ValueError):
            continue
        if key_type(blob):
            return blob
    raise ValueError(f"not a public key as OpenSSH writes it: {text!r}")


def key_type(blob: bytes) -> str:
    """Return the type name at the beginning of a public key; "" if it is no public key."""
    length = int.from_bytes(blob[:4], "big")
    name = blob[4 : 4 + length]
    return name.decode() if 0 < length < 100 and len(name) == length and name.isascii() else ""


def known_as(name: str, port: int) -> str:
    """Return a host's name in known_hosts files."""
    return name if port == 22 else f"[{name}]:{port}"


class KnownHostsLine:
    """A line of a known_hosts file.

    Attributes:
        patterns: patterns of the host names that the line applies to.
        blob: the key.
        revokes: whether the line revokes the key.
        is_authority: whether the key only signs host certificates.
    """

    __slots__ = ("blob", "is_authority", "patterns", "revokes")

    def __init__(self, patterns: str, blob: bytes, *, revokes: bool = False, is_authority: bool = False) -> None:
        self.patterns = patterns
        self.blob = blob
        self.revokes = revokes
        self.is_authority = is_authority

    @staticmethod
    def parse(text: str) -> KnownHostsLine | None:
        """Parse a line. None for a comment, and for a line that cannot be parsed: such a line trusts no key."""
        words = text.split()
        if not words or words[0].startswith("#"):
            return None
        revokes, is_authority = words[0] == "@revoked", words[0] == "@cert-authority"
        if words[0].startswith("@"):
            words = words[1:] if revokes or is_authority else []
        if len(words) < 3:
            return None
        try:
            blob = base64.b64decode(words[2], validate=True)
        except (binascii.Error, ValueError):
            return None
        if key_type(blob) != words[1]:
            return None
        return KnownHostsLine(words[0], blob, revokes=revokes, is_authority=is_authority)

    def is_about(self, name: str) -> bool:
        """Return True if the line applies to this host."""
        if self.patterns.startswith("|1|"):
            return _is_hash_of(self.patterns, name)
        found = False
        for pattern in self.patterns.split(","):
            # In known_hosts a bracket is an ordinary character, but in fnmatch it begins a set.
            escaped = pattern.lstrip("!").replace("[", "[[]")
            if fnmatchcase(name.lower(), escaped.lower()):
                if pattern.startswith("!"):
                    return False
                found = True
        return found


def _vouched_for(lines: Iterable[KnownHostsLine]) -> list[bytes]:
    """Return the keys that a host may show. The key of a certificate authority is not among them."""
    return [line.blob for line in lines if not line.revokes and not line.is_authority]


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in hashed.split("|")[2:4])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.lower().encode(), hashlib.sha1).digest(), digest)


class HostKeys:
    """The host keys to trust.

    Args:
        files: known_hosts files. A missing file counts as empty.
        pinned: keys that every host may show. If there are any, the files are not read.
        accept_any: accept any host key. An attacker who can intercept the connection then gets everything.
        configured: whether files that the SSH configuration names for a host replace `files`.
    """

    def __init__(
        self,
        files: Iterable[str],
        pinned: Iterable[bytes] = (),
        *,
        accept_any: bool = False,
        configured: bool = False,
    ) -> None:
        self.files = list(files)
        self._pinned = list(pinned)
        self._accept_any = accept_any
        self._configured = configured

    def of(self, files: Collection[str]) -> HostKeys:
        """Return the keys of a host for which the SSH configuration names these files."""
        if not files or not self._configured:
            return self
        return HostKeys(files, self._pinned, accept_any=self._accept_any)

    def lines(self, name: str) -> list[KnownHostsLine]:
        """Return the lines for a host. The files are read anew each time, as the user may just have added the host."""
        found: list[KnownHostsLine] = []
        for file in self.files:
            try:
                text = Path(file).expanduser().read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            parsed = (KnownHostsLine.parse(line) for line in text.splitlines())
            found += [line for line in parsed if line is not None and line.is_about(name)]
        return found

    def types(self, name: str) -> list[str]:
        """Return the key types that are known for a host. The host should show a key of one of these types."""
        blobs = self._pinned or _vouched_for(self.lines(name))
        return list(dict.fromkeys(key_type(blob) for blob in blobs))

    def verify(self, host: str, name: str, blob: bytes) -> None:
        """Verify that a key is trusted for a host.

        Args:
            host: the host as the user wrote it, for the error.
            name: its name in the files (`known_as`).
            blob: the key that the host has shown.

        Raises:
            HostKeyError: the key is not trusted for this host.
        """
        shown = f"{key_type(blob)} {fingerprint(blob)}"
        if self._pinned:
            if blob not in self._pinned:
                expected = " or ".join(map(fingerprint, self._pinned))
                raise HostKeyError(f"{host} shows the key {shown}, but host_key= expects {expected}", "host key")
            return
        lines = self.lines(name)
        if any(line.revokes and line.blob == blob for line in lines):
            raise HostKeyError(f"{host} shows the key {shown}, which is revoked in known_hosts", "host key")
        known = _vouched_for(lines)
        if blob in known or self._accept_any:
            return
        if known:
            expected = ", ".join(f"{key_type(other)} {fingerprint(other)}" for other in known)
            raise HostKeyError(
                f"{host} shows the key {shown}, but is known with {expected}: either it was installed anew, or an "
                f"attacker answers in its place. Ask its administrator, and only then run: ssh-keygen -R '{name}'",
                "host key",
            )
        if any(line.is_authority for line in lines):
            raise HostKeyError(
                f"{host} shows the key {shown}. For {name!r}, known_hosts has only @cert-authority lines, and this "
                'client does not read certificates of hosts: client="openssh" does. Or compare the fingerprint with '
                "the host's own (ssh-keygen -l), then add the key itself to known_hosts (ssh-keyscan prints the line), "
                "or give host_key=",
                "host key",
            )
        raise HostKeyError(
            f"{host} shows the key {shown}, and {name!r} is in none of {', '.join(self.files) or 'no file'}: compare "
            "the fingerprint with the host's own (ssh-keygen -l), then connect once with ssh, or give host_key=",
            "host key",
        )
