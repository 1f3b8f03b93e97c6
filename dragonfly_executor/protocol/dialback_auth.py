"""Who may speak where a runner dials back: both ends prove that they know the boot's token, and neither says it.

    runner                                    parent
    DIAL {version, nonce, runner id}    ->
                                        <-    CHALLENGE {nonce}
    PROOF {MAC}                         ->    the token is used up
                                        <-    PARENT_PROOF {MAC}, VERSIONS {JSON}
    HELLO {JSON}                        ->    from here on as on every other link

All of it travels inside TLS whose certificate the runner has pinned. A MAC is HMAC-SHA256 under the token, over the
side that speaks, the certificate's fingerprint, the runner, and both nonces: so what one side says is no use in the
mouth of the other, on another listener, for another runner, or at another time. Whatever else comes is a
`ProtocolError`, and the answer to each of them is the same `REFUSAL`.

A room of its own: local runners read `handshake` and must not pay for hmac, which loads OpenSSL.
"""

from __future__ import annotations

import hmac
import struct

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import Frame, Kind, encode
from dragonfly_executor.protocol.handshake import Greeting, Versions, greeting, read_greeting
from dragonfly_executor.protocol.stdlib_json import json

VERSION = 1
"""Of this handshake; the wire has its own, which VERSIONS and HELLO tell."""
SECRET_SIZE = 32
"""Bytes of a token, a nonce, a fingerprint and a MAC."""
MAX_ID_SIZE = 64
MAX_SPENT = 4096
"""Tokens that are remembered after their use, so that a runner that comes again is told from a stranger."""
CAME_AGAIN = "a token is good once, and a machine that was started again, as after a reboot of its host, ends by itself"
RUNNER, PARENT = b"dragonfly/1 runner", b"dragonfly/1 parent"
REFUSAL = encode(Kind.REFUSE, payload=json.dumps({"reason": "refused"}).encode())
"""The one answer to whoever cannot prove that it may speak, whatever was wrong with it."""
DIAL = struct.Struct(f"!H{SECRET_SIZE}s")
LENGTH = struct.Struct("!I")


class RefusedError(ProtocolError):
    """The parent does not want this runner, or not any more."""


def mac(side: bytes, token: bytes, fingerprint: bytes, runner_id: str, parents_nonce: bytes, nonce: bytes) -> bytes:
    """What proves that one `side` knows the token, here and now."""
    fields = (side, fingerprint, runner_id.encode(), parents_nonce, nonce)
    # Each with its length: else the end of one field could be read as the beginning of the next.
    message = b"".join(LENGTH.pack(len(field)) + field for field in fields)
    return hmac.digest(token, message, "sha256")


class Tokens:
    """The tokens of the boots that are pending: each is good for one runner, once, and until its boot must be done.

    Args:
        decoy: a random token that nobody has. It stands in for those of unknown runners, so that it takes as long to
            refuse them.
    """

    def __init__(self, decoy: bytes) -> None:
        self._decoy = decoy
        self._granted: dict[str, tuple[bytes, float]] = {}
        self._spent: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._granted)

    def grant(self, runner_id: str, token: bytes, until: float) -> None:
        """Expect this runner, up to that moment."""
        self._granted[runner_id] = (token, until)

    def extend(self, runner_id: str, until: float) -> None:
        """Expect this runner up to that moment instead, if it is expected."""
        if runner_id in self._granted:
            self._granted[runner_id] = (self._granted[runner_id][0], until)

    def revoke(self, runner_id: str) -> None:
        """Do not expect this runner any more; fine if nobody did."""
        self._granted.pop(runner_id, None)

    def spend(self, runner_id: str) -> None:
        """A runner has come in by its token, which is worth nothing from now on."""
        token, _ = self._granted.pop(runner_id)
        self._spent[runner_id] = token
        if len(self._spent) > MAX_SPENT:
            del self._spent[next(iter(self._spent))]

    def spent(self, runner_id: str) -> bytes:
        """The token by which a runner has come in; another one if none has, or long ago."""
        return self._spent.get(runner_id, self._decoy)

    def find(self, runner_id: str, now: float) -> tuple[bytes, float]:
        """The token of a runner and the seconds that are left to it; another one and 0 if none is expected."""
        token, until = self._granted.get(runner_id, (self._decoy, now))
        return (token, until - now) if now < until else (self._decoy, 0.0)


class ParentSide:
    """The parent's half of one handshake.

    Args:
        tokens: of the pool; the one that is proved here is revoked.
        fingerprint: SHA-256 of the certificate that the peer was shown.
        nonce: random, and of this connection alone.
        versions: of the parent.

    Attributes:
        admitted: the runner that has proved who it is; None until one has.
    """

    def __init__(self, tokens: Tokens, fingerprint: bytes, nonce: bytes, versions: Versions) -> None:
        self.admitted: str | None = None
        self._tokens = tokens
        self._fingerprint = fingerprint
        self._nonce = nonce
        self._versions = versions
        self._dialed: tuple[str, bytes] | None = None

    def hear(self, frame: Frame, now: float) -> bytes:
        """The frames to answer with; `ProtocolError` if this peer gets no answer."""
        if self.admitted is not None:
            raise ProtocolError("it went on before it was answered")
        if self._dialed is None:
            self._dialed = _read_dial(frame)
            return encode(Kind.CHALLENGE, payload=self._nonce)
        return self._judge(_payload(frame, Kind.PROOF), *self._dialed, now)

    def _judge(self, proof: bytes, runner_id: str, nonce: bytes, now: float) -> bytes:
        token, patience = self._tokens.find(runner_id, now)
        binding = (token, self._fingerprint, runner_id, self._nonce, nonce)
        is_right = hmac.compare_digest(mac(RUNNER, *binding), proof)
        again = mac(RUNNER, self._tokens.spent(runner_id), *binding[1:])
        if not (is_right and patience > 0):
            reason = "it could not prove that it is a runner that is waited for"
            if hmac.compare_digest(again, proof):
                reason += f". It is runner {runner_id} once more: {CAME_AGAIN}"
            raise ProtocolError(reason)
        self._tokens.spend(runner_id)
        self.admitted = runner_id
        answer = encode(Kind.PARENT_PROOF, payload=mac(PARENT, *binding))
        return answer + encode(Kind.VERSIONS, payload=greeting(self._versions, patience))


class RunnerSide:
    """The runner's half.

    Args:
        runner_id, token: as the boot was given them.
        fingerprint: SHA-256 of the certificate that the peer has shown; the caller has compared it.
        nonce: random, and of this connection alone.

    Attributes:
        greeting: what the parent says of itself, once it has proved who it is; the handshake is done then.
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
        """The frame to begin with."""
        return encode(Kind.DIAL, payload=DIAL.pack(VERSION, self._nonce) + self._runner_id.encode())

    def hear(self, frame: Frame) -> bytes:
        """The frame to answer with, if any; `RefusedError` if the parent says no, `ProtocolError` if it is none."""
        if frame.kind == Kind.REFUSE:
            raise RefusedError("the parent does not expect this runner, or not any more")
        if self._parents_nonce is None:
            self._parents_nonce = _secret(_payload(frame, Kind.CHALLENGE))
            return encode(Kind.PROOF, payload=self._mac(RUNNER))
        if not self._knows_parent:
            if not hmac.compare_digest(self._mac(PARENT), _payload(frame, Kind.PARENT_PROOF)):
                raise ProtocolError("the parent does not know this runner's token")
            self._knows_parent = True
            return b""
        if self.greeting is not None:
            raise ProtocolError("the parent went on before it was answered")
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
        raise ProtocolError(f"version {version} of the handshake, where this is {VERSION}")
    try:
        return payload[DIAL.size :].decode(), nonce
    except UnicodeDecodeError:
        raise ProtocolError("a runner's number that is no text") from None


def _payload(frame: Frame, kind: Kind) -> bytes:
    """What a frame of this kind carries; `ProtocolError` for any other, and for one that says more than it may."""
    if frame.kind != kind:
        raise ProtocolError(f"a frame of kind {frame.kind}, where {kind.name} is due")
    if frame.flags or frame.attempt or frame.detail or frame.call_id:
        raise ProtocolError(f"a {kind.name} that is about something else")
    return bytes(frame.payload)


def _secret(payload: bytes) -> bytes:
    if len(payload) != SECRET_SIZE:
        raise ProtocolError(f"a nonce of {len(payload)} bytes")
    return payload
