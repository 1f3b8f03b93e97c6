"""The handshake of a runner that dials back: the right one passes, and whatever is changed in it, it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol import dialback_auth
from dragonfly_executor.protocol.dialback_auth import (
    MAX_SPENT,
    PARENT,
    RUNNER,
    SECRET_SIZE,
    BootTokens,
    ParentHandshake,
    RefusedError,
    RunnerHandshake,
    mac,
)
from dragonfly_executor.protocol.frames import HEADER_SIZE, MAX_HANDSHAKE_FRAME, Decoder, Frame, Kind, encode
from dragonfly_executor.protocol.versions import versions

TOKEN, DECOY, FINGERPRINT = b"t" * SECRET_SIZE, b"d" * SECRET_SIZE, b"f" * SECRET_SIZE
PARENTS_NONCE, NONCE = b"p" * SECRET_SIZE, b"r" * SECRET_SIZE
NOW, UNTIL = 100.0, 130.0
Tamper = Callable[[int, bytes], bytes]
"""What is done to the message of a number, on its way."""


def frames(data: bytes) -> list[Frame]:
    decoder = Decoder(MAX_HANDSHAKE_FRAME)
    found = decoder.feed(data)
    if decoder.pending:
        raise ProtocolError("it waits for more, until its time is over")
    return found


def tokens(token: bytes = TOKEN, until: float = UNTIL) -> BootTokens:
    granted = BootTokens(DECOY)
    granted.grant("7", token, until)
    return granted


def parent(granted: BootTokens, fingerprint: bytes = FINGERPRINT, nonce: bytes = PARENTS_NONCE) -> ParentHandshake:
    return ParentHandshake(granted, fingerprint, nonce, versions())


def runner(runner_id: str = "7", token: bytes = TOKEN, fingerprint: bytes = FINGERPRINT) -> RunnerHandshake:
    return RunnerHandshake(runner_id, token, fingerprint, NONCE)


def shake(
    one: RunnerHandshake, other: ParentHandshake, tamper: Tamper = lambda number, data: data, now: float = NOW
) -> None:
    """The whole handshake; each side is handed what the other said, as `tamper` leaves it."""
    number = 0
    said = one.dial()
    while said:
        answer = b""
        for frame in frames(tamper(number, said)):
            answer += other.receive(frame, now)
        number += 1
        said = b""
        for frame in frames(tamper(number, answer)):
            said += one.receive(frame)
        number += 1


def test_the_right_runner_is_admitted_and_told_who_the_parent_is() -> None:
    granted, one = tokens(), runner()
    other = parent(granted)
    shake(one, other)
    assert other.admitted == "7"
    assert one.greeting is not None
    assert one.greeting.timeout == UNTIL - NOW
    assert one.greeting.versions.python == versions().python
    assert len(granted) == 0


def test_the_mac_is_the_one_that_is_written_down() -> None:
    """Failure modes §3: HMAC-SHA256 over label, certificate, runner and both nonces, each with its length."""
    assert (RUNNER, PARENT) == (b"dragonfly/1 runner", b"dragonfly/1 parent")
    expected = "e7953acd9d1352ee06acce0239a954829cb4d273f1f0e356c540af0bbebfad7f"
    found = mac(RUNNER, TOKEN, FINGERPRINT, "7", PARENTS_NONCE, NONCE).hex()
    assert found == expected


def test_what_belongs_to_one_field_cannot_be_read_as_the_next() -> None:
    assert mac(RUNNER, TOKEN, FINGERPRINT, "71", b"1", b"") != mac(RUNNER, TOKEN, FINGERPRINT, "7", b"11", b"")


@pytest.mark.parametrize(
    "impostor",
    [
        runner(token=b"x" * SECRET_SIZE),
        runner(token=DECOY[:-1] + b"x"),
        runner(token=b""),
        runner(runner_id="8"),
        runner(runner_id=""),
        runner(runner_id="7" * 65),
        runner(fingerprint=b"g" * SECRET_SIZE),
    ],
    ids=["wrong", "almost-the-decoy", "empty", "another-runner", "no-runner", "endless-name", "another-listener"],
)
def test_an_impostor_is_not_admitted_and_uses_no_token_up(impostor: RunnerHandshake) -> None:
    """Checklist 2."""
    granted = tokens()
    other = parent(granted)
    with pytest.raises(ProtocolError):
        shake(impostor, other)
    assert other.admitted is None
    shake(runner(), parent(granted))


def test_who_knows_the_decoy_is_still_nobody() -> None:
    """Checklist 2: an unknown runner is measured against it, and cannot pass even so."""
    other = parent(tokens())
    with pytest.raises(ProtocolError, match="could not prove"):
        shake(runner(runner_id="8", token=DECOY), other)
    assert other.admitted is None


def test_a_token_is_good_once() -> None:
    """Checklist 2."""
    granted = tokens()
    shake(runner(), parent(granted))
    with pytest.raises(ProtocolError, match="could not prove"):
        shake(runner(), parent(granted, nonce=b"q" * SECRET_SIZE))


def test_of_two_that_prove_it_at_the_same_time_one_is_admitted() -> None:
    """Checklist 2: a token that was stolen lets one in, and not both."""
    granted = tokens()
    sides = [parent(granted), parent(granted)]
    proofs = []
    for side in sides:
        one = runner()
        (challenge,) = frames(side.receive(frames(one.dial())[0], NOW))
        proofs += frames(one.receive(challenge))
    assert sides[0].receive(proofs[0], NOW)
    with pytest.raises(ProtocolError, match="could not prove"):
        sides[1].receive(proofs[1], NOW)


@pytest.mark.parametrize("now", [UNTIL, UNTIL + 1e9])
def test_a_token_has_its_time(now: float) -> None:
    """Checklist 2."""
    with pytest.raises(ProtocolError, match="could not prove"):
        shake(runner(), parent(tokens()), now=now)


def test_a_revoked_token_is_none() -> None:
    """Checklist 2."""
    granted = tokens()
    granted.revoke("7")
    granted.revoke("7")
    with pytest.raises(ProtocolError, match="could not prove"):
        shake(runner(), parent(granted))


def test_what_was_overheard_is_no_use_on_another_connection() -> None:
    """Checklist 2: a replay, before the token was used up."""
    granted, overheard = tokens(), list[bytes]()
    first = parent(granted)

    def listen(number: int, data: bytes) -> bytes:
        overheard.append(data)
        if number == 2:
            raise ConnectionError  # the proof never arrives
        return data

    with pytest.raises(ConnectionError):
        shake(runner(), first, listen)
    second = parent(granted, nonce=b"q" * SECRET_SIZE)
    second.receive(frames(overheard[0])[0], NOW)
    with pytest.raises(ProtocolError, match="could not prove"):
        second.receive(frames(overheard[2])[0], NOW)


def test_a_proof_that_is_relayed_to_another_pool_proves_nothing_there() -> None:
    """Checklist 2: same token, same runner, same nonces, but another certificate."""
    with pytest.raises(ProtocolError, match="could not prove"):
        shake(runner(), parent(tokens(), fingerprint=b"g" * SECRET_SIZE))


def test_a_proof_that_is_sent_back_proves_nothing() -> None:
    """Checklist 2: reflection, of the runner's proof to it and of the nonce, too."""
    one = runner()
    (proof,) = frames(one.receive(frames(encode(Kind.CHALLENGE, payload=NONCE))[0]))
    with pytest.raises(ProtocolError, match="does not know"):
        one.receive(frames(encode(Kind.PARENT_PROOF, payload=bytes(proof.payload)))[0])


def test_a_parent_without_the_token_is_not_believed() -> None:
    """It has the certificate's key, and still is not the one that has booted this runner."""
    granted = tokens(token=b"x" * SECRET_SIZE)
    granted.find = lambda runner_id, now: (b"x" * SECRET_SIZE, 1.0)  # type: ignore[method-assign]
    one = runner()
    one.receive(frames(encode(Kind.CHALLENGE, payload=PARENTS_NONCE))[0])
    forged = mac(PARENT, b"x" * SECRET_SIZE, FINGERPRINT, "7", PARENTS_NONCE, NONCE)
    with pytest.raises(ProtocolError, match="does not know"):
        one.receive(frames(encode(Kind.PARENT_PROOF, payload=forged))[0])
    assert one.greeting is None


@given(st.integers(0, 3), st.integers(0, 10**6))
@settings(max_examples=500)
def test_no_bit_of_anything_can_be_changed(number: int, bit: int) -> None:
    """Except in the text that the parent adds once both have proved themselves; TLS guards that."""
    one, other = runner(), parent(tokens())

    def flip(now: int, data: bytes) -> bytes:
        if now != number:
            return data
        changed = bytearray(data)
        size = HEADER_SIZE + SECRET_SIZE if number == 3 else len(data)
        changed[bit // 8 % size] ^= 1 << bit % 8
        return bytes(changed)

    with pytest.raises(ProtocolError):
        shake(one, other, flip)
    assert one.greeting is None
    assert other.admitted == ("7" if number == 3 else None)


payloads = st.one_of(st.binary(max_size=120), st.binary(min_size=SECRET_SIZE, max_size=SECRET_SIZE))
strangers = st.lists(
    st.builds(
        lambda kind, payload, flags: encode(kind, payload=payload, flags=flags),
        st.sampled_from(sorted(int(kind) for kind in Kind)),
        payloads,
        st.sampled_from([0, 0, 0, 1]),
    ),
    max_size=5,
)


@given(strangers, st.binary(max_size=100))
def test_whatever_is_said_to_a_parent_admits_nobody(said: list[bytes], rest: bytes) -> None:
    """Any bytes give an answer or a ProtocolError."""
    granted = tokens()
    other = parent(granted)
    with pytest.raises(ProtocolError):
        for frame in [*frames(b"".join(said)), *frames(rest + b"\xff" * HEADER_SIZE)]:
            other.receive(frame, NOW)
    assert other.admitted is None
    assert len(granted) == 1


@given(strangers, st.integers(0, 1))
def test_whatever_is_said_to_a_runner_is_no_parent(said: list[bytes], challenged: int) -> None:
    """Any bytes give an answer or a ProtocolError."""
    one = runner()
    begin = [encode(Kind.CHALLENGE, payload=PARENTS_NONCE)] * challenged
    try:
        for frame in frames(b"".join([*begin, *said])):
            one.receive(frame)
    except ProtocolError:
        pass
    assert one.greeting is None


def test_a_runner_that_is_refused_knows_it() -> None:
    (refusal,) = frames(dialback_auth.REFUSAL)
    with pytest.raises(RefusedError):
        runner().receive(refusal)


def test_nobody_may_go_on_before_the_answer() -> None:
    one, other = runner(), parent(tokens())
    shake(one, other)
    with pytest.raises(ProtocolError, match="before it was answered"):
        other.receive(frames(one.dial())[0], NOW)
    with pytest.raises(ProtocolError, match="before it was answered"):
        one.receive(frames(encode(Kind.VERSIONS))[0])


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"versions": {}}', b"\xff", b'{"timeout": []}', b"[" * 3000])
def test_a_greeting_that_is_none_is_refused(text: bytes) -> None:
    one = runner()
    binding = (TOKEN, FINGERPRINT, "7", PARENTS_NONCE, NONCE)
    one.receive(frames(encode(Kind.CHALLENGE, payload=PARENTS_NONCE))[0])
    one.receive(frames(encode(Kind.PARENT_PROOF, payload=mac(PARENT, *binding)))[0])
    with pytest.raises(ProtocolError, match="not a VERSIONS"):
        one.receive(frames(encode(Kind.VERSIONS, payload=text))[0])
    assert one.greeting is None


def test_a_runner_that_comes_again_is_refused_and_told_from_a_stranger() -> None:
    """As on a machine whose host was rebooted: with the right token, which is used up."""
    granted = tokens()
    shake(runner(), parent(granted))
    again = parent(granted)
    with pytest.raises(ProtocolError, match=r"could not prove .* Runner 7 has connected before: a token is valid once"):
        shake(runner(), again)
    assert again.admitted is None
    stranger = parent(granted)
    with pytest.raises(ProtocolError, match=r"is an expected runner$"):
        shake(runner(token=b"x" * SECRET_SIZE), stranger)


def test_of_used_tokens_the_last_ones_are_remembered() -> None:
    granted = BootTokens(DECOY)
    for number in range(MAX_SPENT + 2):
        granted.grant(str(number), TOKEN, 100.0)
        granted.spend(str(number))
    assert [granted.spent(str(number)) for number in (0, 1, 2, MAX_SPENT + 1)] == [DECOY, DECOY, TOKEN, TOKEN]
    assert len(granted) == 0
