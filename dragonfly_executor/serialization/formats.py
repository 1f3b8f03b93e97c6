"""The serializers: which pickler writes a payload, and which function opens it."""

from __future__ import annotations

from importlib import import_module

from dragonfly_executor.errors import CallSerializationError
from dragonfly_executor.serialization import large_unpickler
from dragonfly_executor.serialization.code_table import CodeTable
from dragonfly_executor.serialization.function_pickler import FunctionPickler
from dragonfly_executor.serialization.large_unpickler import PayloadFile
from dragonfly_executor.serialization.layout import BOX, BY_CUSTOM, BY_DILL, IN_BAND_BELOW, Buffers, Sink, unpack
from dragonfly_executor.serialization.main_pickler import NamePickler, NameTracking, NeedsValueError
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.plain_pickle import Pickler

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.serialization.layout import Received
    from dragonfly_executor.serialization.main_pickler import MainView

MARK = b"_main__"  # in every reference to __main__ and to __mp_main__
MARKS = (MARK,)


class SerializerFormat:
    """One serializer.

    Attributes:
        name: "cloudpickle", "dill", "pickle" or "custom".
        custom: the user's object with dumps and loads, or None.
        flags: the flags of a box written by this serializer.
        standard_flags: the flags of a box written without the user's object.
        codes: the code objects that were written.
        least_buffer: size in bytes of the smallest buffer that is written beside the pickle.
        refer: see `NameTracking`.
    """

    def __init__(self, serializer: object, least_buffer: int = IN_BAND_BELOW) -> None:
        self.least_buffer = least_buffer
        self.custom: Any = None
        self.refer: Callable[[Any, list[object]], Any] | None = None
        self.codes = CodeTable()
        self.flags = self.standard_flags = 0
        if isinstance(serializer, str):
            if serializer not in ("cloudpickle", "dill", "pickle"):
                known = "'cloudpickle', 'dill' or 'pickle', or an object with dumps and loads"
                raise ValueError(f"serializer must be {known}, not {serializer!r}")
            self.name = serializer
            if serializer == "dill":
                self.flags = self.standard_flags = BY_DILL
        elif callable(getattr(serializer, "dumps", None)) and callable(getattr(serializer, "loads", None)):
            self.name, self.custom, self.flags = "custom", serializer, BY_CUSTOM
        else:
            raise TypeError(f"serializer must be a name or have dumps and loads, not {type(serializer).__name__}")

    def require(self) -> None:
        """Raise ValueError if the serializer's package is not installed here.

        A slot does not call this: it makes its format before its import path leads to the package.
        """
        if self.name != "dill":
            return
        try:
            import_module("dill")
        except ImportError as exc:
            raise ValueError("serializer='dill' needs dill: pip install dragonfly-executor[dill]") from exc

    def plain(self, value: Any, marks: tuple[bytes, ...] = MARKS) -> tuple[Sink, Buffers] | None:
        """Pickle a value with plain pickle.

        Args:
            value: the object.
            marks: bytes that must not occur in the pickle.

        Returns:
            The pickle and its buffers; None if plain pickle is not enough, or if a mark occurs.
        """
        sink, buffers = Sink(), Buffers(self.least_buffer)
        try:
            Pickler(sink, 5, buffer_callback=buffers.add).dump(value)
        except Exception:  # any error: the next pickler succeeds, or raises a better one
            return None
        return None if sink.mentions(marks) else (sink, buffers)

    def tracked(
        self,
        value: Any,
        main: MainView,
        owners: frozenset[str] = frozenset(),
        returning: bool = False,
        inline: bool = False,
        number_of: Callable[[Any], int | None] | None = None,
    ) -> tuple[Sink, Buffers, NameTracking]:
        """Pickle any value, and record the names that it refers to.

        Args:
            value: the object.
            main: this side's ``__main__``.
            owners: top-level names to embed.
            returning: whether the value goes from a slot to the parent.
            inline: keep buffers inside the pickle.
            number_of: as for `NameTracking`.

        Returns:
            The pickle, its buffers, and the pickler with the names.

        Raises:
            Exception: any error of the pickler or of user code.
        """
        first = FunctionPickler if self.name == "cloudpickle" else NamePickler
        try:
            return self._run(first, value, main, owners, returning, inline, number_of)
        except NeedsValueError as exc:
            if self.name == "pickle":
                raise pickle.PicklingError(f"{exc}, and serializer='pickle' sends by reference only") from None
        except CallSerializationError:
            raise  # a future or a handle: no pickler can pickle it, and the next one is slow to import
        except Exception:
            if self.name == "pickle":
                raise
        return self._run(self._by_value(), value, main, owners, returning, inline, number_of)

    def open_payload(self, data: Received) -> Any:
        """Open a payload that refers to no shared object, and return its object."""
        if data[0] != BOX:
            return pickle.loads(data)
        flags, _, body, buffers = unpack(data)
        return self.open(flags, body, buffers)

    def open(self, flags: int, body: Received, buffers: list[Any], shared: Callable[[int], Any] | None = None) -> Any:
        """Open a body, and return its object.

        Args:
            flags, body, buffers: the parts of a box.
            shared: returns a shared object by its number; None if the body refers to none.
        """
        if flags & BY_DILL:
            from dragonfly_executor.serialization.dill_pickler import loads

            return loads(body, buffers, shared)
        if flags & BY_CUSTOM:
            return self.custom.loads(bytes(body))
        if shared is not None:
            # Imported only for calls that use shared objects.
            from dragonfly_executor.serialization.shared_unpickler import SharedUnpickler

            return SharedUnpickler(PayloadFile(body), buffers, shared).load()
        return large_unpickler.loads(body, buffers)

    def _by_value(self) -> Any:
        if self.name == "dill":
            return import_module("dragonfly_executor.serialization.dill_pickler").DillPickler
        return import_module("dragonfly_executor.serialization.cloudpickle_pickler").ValuePickler

    def _run(
        self,
        kind: Any,
        value: Any,
        main: MainView,
        owners: frozenset[str],
        returning: bool,
        inline: bool,
        number_of: Callable[[Any], int | None] | None,
    ) -> tuple[Sink, Buffers, NameTracking]:
        sink, buffers = Sink(), Buffers(self.least_buffer)
        pickler = kind(sink, protocol=5, buffer_callback=None if inline else buffers.add)
        pickler.track(main, owners, returning, self.codes)
        pickler.refer = self.refer
        if number_of is not None:
            pickler.number_of = number_of
        pickler.dump(value)
        return sink, buffers, pickler
