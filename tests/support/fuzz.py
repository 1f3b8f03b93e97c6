"""The parsers of a peer's bytes under atheris, each for so many seconds: ``python -m tests.support.fuzz [SECONDS]``.

``python -m tests.support.fuzz TARGET [LIBFUZZER OPTIONS]`` runs one, or repeats what it found, if that is the option.
The promise: any bytes give frames, or a HELLO, or `ProtocolError`, and nothing else; however they are split, they give
the same; and what is held back is never more than what arrived. Nobody who does not know the token is let in, or taken
for the parent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dragonfly_executor.protocol"]):
    from dragonfly_executor.protocol import dialback_auth, file_manifest, handshake
    from dragonfly_executor.protocol import frames as frames_module

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.versions import versions

SECONDS = 60
Read = tuple[list[bytes], bool]


def decode(pieces: list[bytes], limit: int) -> Read:
    """The frames that these pieces of a stream give, and whether it broke off there."""
    decoder = frames_module.Decoder(limit)
    frames: list[bytes] = []
    arrived = 0
    for piece in pieces:
        arrived += len(piece)
        try:
            frames += [frame.raw for frame in decoder.feed(piece)]
        except ProtocolError:
            return frames, True
        assert decoder.pending <= arrived - sum(map(len, frames))
    return frames, False


def fuzz_wire(data: bytes) -> None:
    """Frames come out as they went in, whole or in pieces."""
    source = atheris.FuzzedDataProvider(data)
    limit = source.PickValueInList([frames_module.MAX_HANDSHAKE_FRAME, frames_module.MAX_FRAME])
    size = source.ConsumeIntInRange(1, 64)
    stream = source.ConsumeBytes(sys.maxsize)
    whole, broke = decode([stream], limit)
    pieces, broke_too = decode([stream[start : start + size] for start in range(0, len(stream), size)], limit)
    assert broke == broke_too
    # In one piece the frames before the break are lost with it: the link is closed then in any case.
    assert broke or whole == pieces
    assert stream.startswith(b"".join(pieces))


def fuzz_hello(data: bytes) -> None:
    """A HELLO has all its fields, each of its type."""
    try:
        hello = handshake.read_hello(data)
    except ProtocolError:
        return
    assert isinstance(hello.runner_id, str)
    assert isinstance(hello.versions.python, str)
    assert isinstance(hello.versions.cpus, int)
    assert all(isinstance(text, str) for pair in hello.versions.packages.items() for text in pair)
    handshake.mismatch(hello.versions, hello.versions)
    assert handshake.differences(hello.versions, hello.versions) == []


def fuzz_step(data: bytes) -> None:
    """A step changes a tree, and names nothing that lies outside of it."""
    try:
        step = file_manifest.read_step(data)
        tree = file_manifest.merged({}, step.difference)
    except ProtocolError:
        return
    for path in (*tree, *step.difference.deleted, *step.import_path):
        assert not path.startswith("/")
        assert ".." not in path.split("/")
    assert file_manifest.read_step(step.dump()) == step


def steps() -> list[bytes]:
    """A step as parents send it, and some that lead out of the tree."""
    file = file_manifest.file_entry("0" * 64, 3)
    changes = [
        {"cwd": file_manifest.directory_entry(), "cwd/a.py": file, "cwd/link": file_manifest.link_entry("a.py")},
        {"../a": file},
        {"/a": file},
        {"a": file_manifest.link_entry("/"), "a/b": file},
    ]
    made = [
        file_manifest.SyncStep(file_manifest.TreeDifference(change, ["old"]), ["cwd"], True, ["attrs"])
        for change in changes
    ]
    return [*(step.dump() for step in made), b"[" * 3000, b"\xff", b"{}"]


TOKEN, FINGERPRINT, NONCE = b"t" * 32, b"f" * 32, b"n" * 32
"""A fuzzer does not find the HMAC under this token."""


def frames_of(stream: bytes) -> list[frames_module.Frame]:
    """Those that a listener would see, one after the other."""
    decoder = frames_module.Decoder(frames_module.MAX_HANDSHAKE_FRAME, one_by_one=True)
    frames: list[frames_module.Frame] = []
    try:
        found = decoder.feed(stream)
        while found:
            frames += found
            found = decoder.feed(b"") if decoder.pending else []
    except ProtocolError:
        return frames
    return frames


def fuzz_dial(data: bytes) -> None:
    """A parent answers, or refuses, and admits nobody."""
    tokens = dialback_auth.BootTokens(b"d" * 32)
    tokens.grant("1", TOKEN, 2.0)
    side = dialback_auth.ParentHandshake(tokens, FINGERPRINT, NONCE, versions())
    for frame in frames_of(data):
        try:
            answer = side.receive(frame, 1.0)
        except ProtocolError:
            break
        assert len(answer) <= frames_module.MAX_HANDSHAKE_FRAME
    assert side.admitted is None
    assert len(tokens) == 1


def fuzz_answer(data: bytes) -> None:
    """A runner answers, or gives up, and believes nobody; what a real parent adds then is read without harm."""
    for begin in (b"", data_of_a_parent()):
        side = dialback_auth.RunnerHandshake("1", TOKEN, FINGERPRINT, NONCE)
        for frame in frames_of(begin + data):
            try:
                answer = side.receive(frame)
            except ProtocolError:
                break
            assert len(answer) <= frames_module.MAX_HANDSHAKE_FRAME
        assert side.greeting is None or (begin and isinstance(side.greeting.timeout, float))


def data_of_a_parent() -> bytes:
    """What one that knows the token says before it tells its versions."""
    proof = dialback_auth.mac(dialback_auth.PARENT, TOKEN, FINGERPRINT, "1", NONCE, NONCE)
    return frames_module.encode(frames_module.Kind.CHALLENGE, payload=NONCE) + frames_module.encode(
        frames_module.Kind.PARENT_PROOF, payload=proof
    )


def dials() -> list[bytes]:
    """What a runner says, without the right token."""
    side = dialback_auth.RunnerHandshake("1", b"x" * 32, FINGERPRINT, NONCE)
    dial = side.dial()
    (challenge,) = frames_of(frames_module.encode(frames_module.Kind.CHALLENGE, payload=NONCE))
    return [dial, dial + side.receive(challenge), dial + dial, dialback_auth.REFUSAL]


def answers() -> list[bytes]:
    """What a parent says, and what only looks like it."""
    greeting = frames_module.encode(frames_module.Kind.VERSIONS, payload=handshake.greeting(versions(), 30.0))
    return [greeting, data_of_a_parent()[:-1] + b"x" + greeting, dialback_auth.REFUSAL, greeting + greeting]


def hellos() -> list[bytes]:
    """Where fuzzing starts: a HELLO as runners send it, and some that only look like one."""
    good = handshake.hello("1-a", versions())
    said = json.loads(good)
    wrong = [{**said["versions"], "cpus": value} for value in (float("inf"), 1e400, -1, "9" * 5000, [[]], None, {})]
    wrong += [{**said["versions"], "packages": value} for value in ([], {"dill": {}}, "ab", [["dill"]], 7, None)]
    return [good, *(json.dumps({**said, "versions": value}).encode() for value in wrong), b"[" * 3000, b"\xff"]


def streams() -> list[bytes]:
    """A few frames in a row, and one that claims more than may be."""
    frames = [
        frames_module.encode(kind, 7, bytes(size)) for kind, size in zip(frames_module.Kind, range(50), strict=False)
    ]
    return [b"".join(frames), frames_module.HEADER.pack(frames_module.Kind.CALL, 0, 1, 0, 7, 2**63)]


TARGETS = {
    "wire": (fuzz_wire, streams),
    "step": (fuzz_step, steps),
    "hello": (fuzz_hello, hellos),
    "dial": (fuzz_dial, dials),
    "answer": (fuzz_answer, answers),
}


def fuzz(target: str, seconds: str) -> int:
    """Fuzz one target in a process of its own: atheris ends the one that it runs in."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(TARGETS[target][1]()):
            Path(corpus, str(number)).write_bytes(seed)
        command = [sys.executable, "-m", "tests.support.fuzz", target, f"-max_total_time={seconds}", corpus]
        return subprocess.call(command)


def main(arguments: list[str]) -> int:
    """Exit status: 0 if nothing was found."""
    if arguments and arguments[0] in TARGETS:
        atheris.Setup([sys.argv[0], *arguments[1:]], TARGETS[arguments[0]][0])
        atheris.Fuzz()
    seconds = arguments[0] if arguments else str(SECONDS)
    return max(fuzz(target, seconds) for target in TARGETS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
