"""Callables, arguments, results and exceptions to bytes and back.

`CallCodec` is the parent's half, `SlotCodec` and `perform` a slot's. Each is loaded when it is asked for (PEP 562), so
that a slot does not import what only the parent needs. What needs no by-value pickling never loads cloudpickle.
"""

from __future__ import annotations

# Type checkers take this name for true. A runner imports this module, and has no other use for typing, which is slow.
TYPE_CHECKING = False
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
