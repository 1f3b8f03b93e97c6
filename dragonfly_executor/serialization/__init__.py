"""Encodes and decodes callables, arguments, results and exceptions.

`CallCodec` is the parent's half; `SlotCodec` and `perform` are a slot's half. Each is loaded on first access (PEP 562),
so a slot does not import the parent's modules. cloudpickle is imported only when an object has to be pickled by value.
"""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.serialization.parent_codec import CallCodec
    from dragonfly_executor.serialization.slot_codec import SlotCodec, perform

__all__ = ["CallCodec", "SlotCodec", "perform"]


def __getattr__(name: str) -> Any:
    if name == "CallCodec":
        from dragonfly_executor.serialization import parent_codec

        return parent_codec.CallCodec
    if name in ("SlotCodec", "perform"):
        from dragonfly_executor.serialization import slot_codec

        return getattr(slot_codec, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
