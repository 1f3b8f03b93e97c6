"""The serializers: which picklers write a payload, and what opens it."""

from __future__ import annotations

import pickle
from importlib import import_module
from pickle import Pickler

from dragonfly_executor.serialization.layout import BY_CUSTOM, BY_DILL, Buffers, Sink
from dragonfly_executor.serialization.main_pickler import NamePickler, NeedsValue, Tracking

# Type checkers take this name for true. A runner imports this module, and has no other use for typing, which is slow.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.serialization.layout import Received
    from dragonfly_executor.serialization.main_pickler import MainView

MARK = b"_main__"  # in every reference to __main__ and to __mp_main__
MARKS = (MARK,)


class Format:
    """One serializer.

    Attributes:
        name: "cloudpickle", "dill", "pickle" or "custom".
        custom: the user's object with dumps and loads, or None.
        flags: what a box written by this has to say.
        standard_flags: the same for what is written without the user's object.
    """

    def __init__(self, serializer: object) -> None:
        self.custom: Any = None
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

        A slot does not ask: it makes its format before it has the import path that leads to the package.
        """
        if self.name != "dill":
            return
        try:
            import_module("dill")
        except ImportError as exc:
            raise ValueError("serializer='dill' needs dill: pip install dragonfly-executor[dill]") from exc

    def plain(self, value: Any, marks: tuple[bytes, ...] = MARKS) -> tuple[Sink, Buffers] | None:
        """The pickle of what needs nothing but pickle; None if it needs more, or any of these bytes is in it."""
        sink, buffers = Sink(), Buffers()
        try:
            Pickler(sink, 5, buffer_callback=buffers.add).dump(value)
        except Exception:  # whatever it was: the picklers that follow can do it, or say it better
            return None
        for piece in sink:
            if any(mark in piece for mark in marks):
                return None
        return sink, buffers

    def tracked(
        self,
        value: Any,
        main: MainView,
        owners: frozenset[str] = frozenset(),
        returning: bool = False,
        inline: bool = False,
    ) -> tuple[Sink, Buffers, Tracking]:
        """The pickle of anything, and the pickler, which knows the names that were met.

        Args:
            value: the object.
            main: this side's ``__main__``.
            owners: top-level names to embed.
            returning: whether this goes from a slot to the parent.
            inline: keep buffers inside the pickle.

        Raises:
            Exception: whatever the pickler or user code raises.
        """
        try:
            return self._run(NamePickler, value, main, owners, returning, inline)
        except NeedsValue as exc:
            if self.name == "pickle":
                raise pickle.PicklingError(f"{exc}, and serializer='pickle' sends by reference only") from None
        except Exception:
            if self.name == "pickle":
                raise
        return self._run(self._by_value(), value, main, owners, returning, inline)

    def open(self, flags: int, body: Received, buffers: list[Any]) -> Any:
        """What a body holds."""
        if flags & BY_DILL:
            from dragonfly_executor.serialization.dill_pickler import loads

            return loads(body, buffers)
        if flags & BY_CUSTOM:
            return self.custom.loads(bytes(body))
        return pickle.loads(body, buffers=buffers)

    def _by_value(self) -> Any:
        if self.name == "dill":
            return import_module("dragonfly_executor.serialization.dill_pickler").DillPickler
        return import_module("dragonfly_executor.serialization.cloudpickle_pickler").ValuePickler

    @staticmethod
    def _run(
        kind: Any, value: Any, main: MainView, owners: frozenset[str], returning: bool, inline: bool
    ) -> tuple[Sink, Buffers, Tracking]:
        sink, buffers = Sink(), Buffers()
        pickler = kind(sink, protocol=5, buffer_callback=None if inline else buffers.add)
        pickler.track(main, owners, returning)
        pickler.dump(value)
        return sink, buffers, pickler
