"""Mutual authentication of a runner that dials back.

Both ends prove that they know the boot's token, without sending it.

    runner                                    parent
    DIAL {version, nonce, runner id}    ->
                                        <-    CHALLENGE {nonce}
    PROOF {MAC}                         ->    the token is used up
                                        <-    PARENT_PROOF {MAC}, VERSIONS {JSON}
    HELLO {JSON}                        ->    from here on as on every other link

All frames travel inside TLS, and the runner has pinned the certificate. A MAC is HMAC-SHA256 under the token, over the
sending side, the certificate's fingerprint, the runner, and both nonces. So a MAC is invalid from the opposite side, on
another listener, for another runner, or at another time. Any other input is a `ProtocolError`, and the answer to each
is the same `REFUSAL`.

This is a module of its own because local runners import `handshake` and must not pay for hmac, which loads OpenSSL.
"""

from __future__ import annotations

import hmac
import struct

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import Frame, Kind, encode
from dragonfly_executor.protocol.handshake import Greeting, Versions, greeting, read_greeting
from dragonfly_executor.protocol.stdlib_json import json

VERSION = 1
"""Version of this handshake. The protocol has a version of its own, which VERSIONS and HELLO carry."""
SECRET_SIZE = 32
"""Size of a token, a nonce, a fingerprint and a MAC, in bytes."""
MAX_ID_SIZE = 64
MAX_SPENT = 4096
"""Number of used tokens that are remembered, to recognize a runner that dials in a second time."""
CAME_AGAIN = (
    "a token is valid once; a machine that is restarted, for example after a reboot of its host, exits by itself"
)
RUNNER, PARENT = b"dragonfly/1 runner", b"dragonfly/1 parent"
REFUSAL = encode(Kind.REFUSE, payload=json.dumps({"reason": "refused"}).encode())
"""The only answer to a peer that fails to authenticate, whatever the reason."""
DIAL = struct.Struct(f"!H{SECRET_SIZE}s")
LENGTH = struct.Struct("!I")


class RefusedError(ProtocolError):
    """The parent does not expect this runner, or no longer expects it."""


def mac(side: bytes, token: bytes, fingerprint: bytes, runner_id: str, parents_nonce: bytes, nonce: bytes) -> bytes:
    """Return the MAC by which `side` proves that it knows the token, on this connection."""
    fields = (side, fingerprint, runner_id.encode(), parents_nonce, nonce)
    # Prefix each field with its length: otherwise the end of one field can be read as the beginning of the next.
    message = b"".join(LENGTH.pack(len(field)) + field for field in fields)
    return hmac.digest(token, message, "sha256")


class BootTokens:
    """The tokens of the pending boots. Each token is valid for one runner, once, and until its boot's deadline.

    Args:
        decoy: a random token that no runner has. It stands in for the tokens of unknown runners, so that their refusal
            takes the same time.
    """

    def __init__(self, decoy: bytes) -> None:
        self._decoy = decoy
        self._granted: dict[str, tuple[bytes, float]] = {}
        self._spent: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._granted)

    def grant(self, runner_id: str, token: bytes, until: float) -> None:
        """Expect this runner until `until`."""
        self._granted[runner_id] = (token, until)

    def extend(self, runner_id: str, until: float) -> None:
        """Change the deadline of a runner, if it is expected."""
        if runner_id in self._granted:
            self._granted[runner_id] = (self._granted[runner_id][0], until)

    def revoke(self, runner_id: str) -> None:
        """Stop expecting this runner. If it is not expected, nothing changes."""
        self._granted.pop(runner_id, None)

    def spend(self, runner_id: str) -> None:
        """Invalidate the token of a runner that has authenticated."""
        token, _ = self._granted.pop(runner_id)
        self._spent[runner_id] = token
        if len(self._spent) > MAX_SPENT:
            del self._spent[next(iter(self._spent))]

    def spent(self, runner_id: str) -> bytes:
        """Return the token with which a runner authenticated earlier; the decoy if none is remembered."""
        return self._spent.get(runner_id, self._decoy)

    def find(self, runner_id: str, now: float) -> tuple[bytes, float]:
        """Return the token of a runner and the seconds until its deadline; the decoy and 0 if it is not expected."""
        token, until = self._granted.get(runner_id, (self._decoy, now))
        return (token, until - now) if now < until else (self._decoy, 0.0)


class ParentHandshake:
    """The parent's half of one handshake.

    Args:
        tokens: the pool's tokens; the token that is proved here is invalidated.
        fingerprint: SHA-256 of the certificate that the listener showed to the peer.
        nonce: random bytes, used for this connection only.
        versions: the parent's versions.

    Attributes:
        admitted: the id of the authenticated runner; None until then.
    """

    def __init__(self, tokens: BootTokens, fingerprint: bytes, nonce: bytes, versions: Versions) -> None:
        self.admitted: str | None = None
        self._tokens = tokens
        self._fingerprint = fingerprint
        self._nonce = nonce
        self._versions = versions
        self._dialed: tuple[str, bytes] | None = None

    def receive(self, frame: Frame, now: float) -> bytes:
        """Return the frames that answer `frame`.

        Raises:
            ProtocolError: the peer is refused.
        """
        if self.admitted is not None:
            raise ProtocolError("it sent more before it was answered")
        if self._dialed is None:
            self._dialed = _read_dial(frame)
            return encode(Kind.CHALLENGE, payload=self._nonce)
        return self._check_proof(_payload(frame, Kind.PROOF), *self._dialed, now)

    def _check_proof(self, proof: bytes, runner_id: str, nonce: bytes, now: float) -> bytes:
        token, timeout = self._tokens.find(runner_id, now)
        binding = (token, self._fingerprint, runner_id, self._nonce, nonce)
        is_right = hmac.compare_digest(mac(RUNNER, *binding), proof)
        again = mac(RUNNER, self._tokens.spent(runner_id), *binding[1:])
        if not (is_right and timeout > 0):
            reason = "it could not prove that it is an expected runner"
            if hmac.compare_digest(again, proof):
                reason += f". Runner {runner_id} has connected before: {CAME_AGAIN}"
            raise ProtocolError(reason)
        self._tokens.spend(runner_id)
        self.admitted = runner_id
        answer = encode(Kind.PARENT_PROOF, payload=mac(PARENT, *binding))
        return answer + encode(Kind.VERSIONS, payload=greeting(self._versions, timeout))


class RunnerHandshake:
    """The runner's half of one handshake.

    Args:
        runner_id, token: the values that the boot was given.
        fingerprint: SHA-256 of the certificate that the peer has shown; the caller has compared it.
        nonce: random bytes, used for this connection only.

    Attributes:
        greeting: the parent's versions, once the parent has authenticated; then the handshake is done.
    """

    def __init__(self, runner_id: str, token: bytes, fingerprint: bytes, nonce: bytes) -> None:
        self.greeting: Greeting | None = None
        self._runner_id = runner_id
        self._token = token
        self._fingerprint = fingerprint
        self._nonce = nonce
        self._parents_nonce: bytes | None = None
        self._knows_parent = False

    def dial(self) -> bytes:
        """Return the first frame."""
        return encode(Kind.DIAL, payload=DIAL.pack(VERSION, self._nonce) + self._runner_id.encode())

    def receive(self, frame: Frame) -> bytes:
        """Return the frame that answers `frame`, or no bytes.

        Raises:
            RefusedError: the parent refuses this runner.
            ProtocolError: the peer is not the parent, or violates the protocol.
        """
        if frame.kind == Kind.REFUSE:
            raise RefusedError("the parent does not expect this runner, or no longer does")
        if self._parents_nonce is None:
            self._parents_nonce = _secret(_payload(frame, Kind.CHALLENGE))
            return encode(Kind.PROOF, payload=self._mac(RUNNER))
        if not self._knows_parent:
            if not hmac.compare_digest(self._mac(PARENT), _payload(frame, Kind.PARENT_PROOF)):
                raise ProtocolError("the parent does not know this runner's token")
            self._knows_parent = True
            return b""
        if self.greeting is not None:
            raise ProtocolError("the parent sent more before it was answered")
        self.greeting = read_greeting(_payload(frame, Kind.VERSIONS))
        return b""

    def _mac(self, side: bytes) -> bytes:
        return mac(side, self._token, self._fingerprint, self._runner_id, self._parents_nonce or b"", self._nonce)


def _read_dial(frame: Frame) -> tuple[str, bytes]:
    payload = _payload(frame, Kind.DIAL)
    if not DIAL.size < len(payload) <= DIAL.size + MAX_ID_SIZE:
        raise ProtocolError(f"a DIAL of {len(payload)} bytes")
    version, nonce = DIAL.unpack_from(payload)
    if version != VERSION:
        raise ProtocolError(f"version {version} of the handshake, not {VERSION}")
    try:
        return payload[DIAL.size :].decode(), nonce
    except UnicodeDecodeError:
        raise ProtocolError("a runner's number that is not text") from None


def _payload(frame: Frame, kind: Kind) -> bytes:
    """Return the payload of a frame of this kind.

    Raises:
        ProtocolError: the frame is of another kind, or has unexpected header fields.
    """
    if frame.kind != kind:
        raise ProtocolError(f"a frame of kind {frame.kind}, not {kind.name}")
    if frame.flags or frame.attempt or frame.detail or frame.call_id:
        raise ProtocolError(f"a {kind.name} whose other header fields are not 0")
    return bytes(frame.payload)


def _secret(payload: bytes) -> bytes:
    if len(payload) != SECRET_SIZE:
        raise ProtocolError(f"a nonce of {len(payload)} bytes")
    return payload
