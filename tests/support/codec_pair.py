"""Both codecs in one process."""

from __future__ import annotations

from typing import Any

from dragonfly_executor.serialization import CallCodec, SlotCodec, perform


class CodecPair:
    """Runs calls right here, through both codecs. The slot's is not prepared: this process stays as it is."""

    def __init__(self, serializer: object = "cloudpickle") -> None:
        self.codec = CallCodec(serializer)
        self.slot = SlotCodec(self.codec.setup())

    def __call__(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        failed, _, data = self.perform(fn, *args, **kwargs)
        if failed:
            raise self.codec.decode_error(data)
        return self.codec.decode_result(data)

    def error(self, fn: Any, *args: Any, **kwargs: Any) -> BaseException:
        failed, _, data = self.perform(fn, *args, **kwargs)
        assert failed, f"it returned {self.codec.decode_result(data)!r}"
        return self.codec.decode_error(data)

    def perform(self, fn: Any, *args: Any, **kwargs: Any) -> tuple[bool, bool, bytearray]:
        payload = self.encode(fn, *args, **kwargs)
        failed, retryable, pieces = perform(self.slot, payload)
        return failed, retryable, bytearray(b"".join(pieces))

    def encode(self, fn: Any, *args: Any, **kwargs: Any) -> bytearray:
        return bytearray(b"".join(self.codec.encode_call(fn, args, kwargs)))
