"""`Outcome`: what a runner sent as the end of a call, encoded until a thread asks for it."""

from __future__ import annotations

from dragonfly_executor.errors import RemoteTraceback
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from dragonfly_executor.serialization import CallCodec

    Unopened: TypeAlias = tuple[bytes | bytearray | memoryview, tuple[int, int]]
    """An encoded value, and the number and the attempt of its call."""


class Outcome:
    """The outcome of a call, which stays encoded until a thread asks for it."""

    __slots__ = ("_codec", "_data", "_opened", "is_error")

    def __init__(self, codec: CallCodec, data: bytes | bytearray | memoryview, is_error: bool) -> None:
        self._codec = codec
        self._data: bytes | bytearray | memoryview | None = data
        self._opened: list[tuple[Any, BaseException | None]] = []
        self.is_error = is_error

    @classmethod
    def failed(cls, error: BaseException) -> Outcome:
        """Return the outcome of a call that ran, and whose result cannot be had here because of this error."""
        outcome = cls.__new__(cls)
        outcome._data = None  # noqa: SLF001  # of this class
        outcome._opened = [(None, error)]  # noqa: SLF001
        outcome.is_error = True
        return outcome

    def open(self) -> tuple[Any, BaseException | None]:
        """Return the value and None, or None and the error. The first thread that asks decodes it, once."""
        if not self._opened:
            data = self._data
            if data is not None:
                self._opened.append(self._decode(data))
                self._data = None
        # Threads that ask at the same time may each decode it. The first to finish wins, so all get one object.
        return self._opened[0]

    @property
    def encoded(self) -> bytes | bytearray | memoryview | None:
        """The outcome as the slot has sent it; None if there is none, or once a thread has opened it."""
        return self._data

    def encoded_for(self, codec: CallCodec) -> bytes | bytearray | memoryview | None:
        """Return the value as the slot has sent it, if a slot of the pool with this codec did, and it is unopened."""
        return self._data if not self.is_error and self._codec is codec else None

    @property
    def size(self) -> int:
        """Bytes of the encoded outcome; 0 once a thread has opened it."""
        return 0 if self._data is None else len(self._data)

    def described(self) -> str:
        """Return the outcome in the standard library's words, without opening it: ``returned int``. It never raises.

        The type of an unopened value is named if it is cheap to find; otherwise it is "object".
        """
        if self._opened:
            value, error = self._opened[0]
            return f"returned {type(value).__name__}" if error is None else f"raised {type(error).__name__}"
        name = self._type_name()
        return f"raised {name or 'Exception'}" if self.is_error else f"returned {name or 'object'}"

    def error_text(self) -> str:
        """Return the remote traceback of an error without opening it; "" if that is not known. It never raises."""
        if self._opened:
            error = self._opened[0][1]
            cause = None if error is None else error.__cause__
            return cause.text if isinstance(cause, RemoteTraceback) else ""
        try:
            from dragonfly_executor.serialization import result_type

            return result_type.error_text(self._data or b".") or ""
        except Exception:
            return ""

    def _type_name(self) -> str | None:
        data = self._data or b"."
        try:
            from dragonfly_executor.serialization import result_type

            return result_type.error_type(data) if self.is_error else result_type.result_type(data)
        except Exception:
            # There is no memory or no descriptor for the import. The message about that may contain this text.
            return None

    def _decode(self, data: bytes | bytearray | memoryview) -> tuple[Any, BaseException | None]:
        if self.is_error:
            return None, self._codec.decode_error(data)
        try:
            return self._codec.decode_result(data), None
        except Exception as error:
            if isinstance(error.__cause__, MemoryError):
                # The frames of its traceback hold the encoded bytes, which keep the memory in use.
                error.__cause__.__traceback__ = error.__traceback__ = None
            return None, error


class UndecodedError(Exception):
    """A remote error inside the base class, until a thread asks for it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome
