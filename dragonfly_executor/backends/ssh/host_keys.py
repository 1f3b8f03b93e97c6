"""Whose key it is that a host shows: known_hosts files, and keys that the user names.

Read here, and not by paramiko, because that takes the first line for a host as the only one, and knows neither patterns
nor lines that revoke a key.
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
    """A public key's SHA-256, as OpenSSH shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def parse_key(text: str) -> bytes:
    """A key of an OpenSSH ``.pub`` file, or of a known_hosts line; ValueError for anything else."""
    for word in text.split():
        try:
            blob = base64.b64decode(word, validate=True)
        except (binascii.Error, ValueError):
            continue
        if key_type(blob):
            return blob
    raise ValueError(f"not a public key as OpenSSH writes it: {text!r}")


def key_type(blob: bytes) -> str:
    """The name that a public key begins with; "" if it is none."""
    length = int.from_bytes(blob[:4], "big")
    name = blob[4 : 4 + length]
    return name.decode() if 0 < length < 100 and len(name) == length and name.isascii() else ""


def known_as(name: str, port: int) -> str:
    """How a host stands in a known_hosts file."""
    return name if port == 22 else f"[{name}]:{port}"


class Line:
    """A line of a known_hosts file.

    Attributes:
        patterns: the hosts that the line is about.
        blob: the key.
        revokes: whether the line revokes the key.
        is_authority: whether the key only signs certificates of hosts.
    """

    __slots__ = ("blob", "is_authority", "patterns", "revokes")

    def __init__(self, patterns: str, blob: bytes, *, revokes: bool = False, is_authority: bool = False) -> None:
        self.patterns = patterns
        self.blob = blob
        self.revokes = revokes
        self.is_authority = is_authority

    @staticmethod
    def parse(text: str) -> Line | None:
        """What a line says; None for comments, and for what this cannot read: then it vouches for nobody."""
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
        return Line(words[0], blob, revokes=revokes, is_authority=is_authority)

    def is_about(self, name: str) -> bool:
        """Whether it names this host."""
        if self.patterns.startswith("|1|"):
            return _is_hash_of(self.patterns, name)
        found = False
        for pattern in self.patterns.split(","):
            # A bracket stands for itself here, and would begin a set for fnmatch.
            escaped = pattern.lstrip("!").replace("[", "[[]")
            if fnmatchcase(name.lower(), escaped.lower()):
                if pattern.startswith("!"):
                    return False
                found = True
        return found


def _vouched_for(lines: Iterable[Line]) -> list[bytes]:
    """Return the keys that a host may show. The key of a certificate authority is none of them."""
    return [line.blob for line in lines if not line.revokes and not line.is_authority]


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in hashed.split("|")[2:4])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.lower().encode(), hashlib.sha1).digest(), digest)


class HostKeys:
    """Who vouches for which key.

    Args:
        files: known_hosts files; those that are not there say nothing.
        pinned: keys that every host may show, whatever the files say. With any of them the files are not asked.
        accept_any: let any host in that comes by. Whoever can answer in a host's place then gets everything.
        configured: whether files that the SSH configuration names for a host take the place of `files`.
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

    def lines(self, name: str) -> list[Line]:
        """What the files say about a host. They are read anew each time: the user may just have added it."""
        found: list[Line] = []
        for file in self.files:
            try:
                text = Path(file).expanduser().read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            parsed = (Line.parse(line) for line in text.splitlines())
            found += [line for line in parsed if line is not None and line.is_about(name)]
        return found

    def types(self, name: str) -> list[str]:
        """Types of the keys that are known of a host: it should show one of these."""
        blobs = self._pinned or _vouched_for(self.lines(name))
        return list(dict.fromkeys(key_type(blob) for blob in blobs))

    def verify(self, host: str, name: str, blob: bytes) -> None:
        """Nothing if the key is the host's.

        Args:
            host: how the user calls it, for the error.
            name: how it stands in the files (`known_as`).
            blob: the key that it has shown.

        Raises:
            HostKeyError: nobody vouches for the key.
        """
        shown = f"{key_type(blob)} {fingerprint(blob)}"
        if self._pinned:
            if blob not in self._pinned:
                expected = " or ".join(map(fingerprint, self._pinned))
                raise HostKeyError(f"{host} shows the key {shown}, and is to have {expected}", "host key")
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
                f"{host} shows the key {shown}, but is known with {expected}: either it was set up anew, or somebody "
                f"answers in its place. Ask who runs it, and only then: ssh-keygen -R '{name}'",
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
