"""The slot's codec in a process of its own, connected by two pipes, without agent and pool."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

from dragonfly_executor.serialization import CallCodec, SlotCodec, perform

ROOT = Path(__file__).parents[2]
_LENGTH = struct.Struct("<Q")


def put(stream: BinaryIO, *parts: bytes) -> None:
    for part in parts:
        stream.write(_LENGTH.pack(len(part)) + part)
    stream.flush()


def take(stream: BinaryIO) -> bytearray:
    (length,) = _LENGTH.unpack(stream.read(8))
    return bytearray(stream.read(length))


class CodecProcess:
    """A client that runs calls in that process."""

    def __init__(self, serializer: object = "cloudpickle") -> None:
        self.codec = CallCodec(serializer)
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); "]
        command[-1] += "from tests.support.codec_process import serve; serve()"
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.last_size = 0
        put(self.process.stdin, self.codec.setup())

    def __enter__(self) -> CodecProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def error(self, fn: Any, *args: Any, **kwargs: Any) -> BaseException:
        """Run a call that must fail. Return its exception."""
        failed, _, data = self.send(self.codec.encode_call(fn, args, kwargs))
        assert failed, f"it returned {self.codec.decode_result(data)!r}"
        return self.codec.decode_error(data)

    def retryable(self, retry_on: tuple[type[BaseException], ...], fn: Any, *args: Any) -> bool:
        """Run a call that must fail. Return True if its error may be retried."""
        failed, retryable, _ = self.send(self.codec.encode_call(fn, args, {}, retry_on))
        assert failed
        return retryable

    def __call__(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        failed, _, data = self.send(self.codec.encode_call(fn, args, kwargs))
        if failed:
            raise self.codec.decode_error(data)
        return self.codec.decode_result(data)

    def send(self, pieces: Any) -> tuple[bool, bool, bytearray]:
        payload = b"".join(pieces)
        self.last_size = len(payload)
        put(self.process.stdin, payload)
        flags = take(self.process.stdout)
        return bool(flags[0]), bool(flags[1]), take(self.process.stdout)


def serve() -> None:
    """Answer calls until the input ends: the process's main function."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what calls print is not an answer
    codec = SlotCodec(bytes(take(sys.stdin.buffer)))
    codec.prepare()
    while head := sys.stdin.buffer.read(8):
        payload = bytearray(sys.stdin.buffer.read(_LENGTH.unpack(head)[0]))
        failed, retryable, pieces = perform(codec, payload)
        put(answers, bytes([failed, retryable]), b"".join(pieces))
