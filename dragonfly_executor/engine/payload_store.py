"""`PayloadStore`: keeps the payloads of calls, the large ones in memory that is shared with slots on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from dragonfly_executor.engine.call_frames import sendable
from dragonfly_executor.serialization.payload_parts import PayloadParts
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.engine.shared_memory import SharedSegments
    from dragonfly_executor.engine.tier_settings import TierSettings
    from dragonfly_executor.serialization import CallCodec
    from dragonfly_executor.transport.sockets import Buffer


class PayloadStore:
    """The payloads of a pool's calls, as the calls keep them.

    Any thread may use it, and an interrupt may stop that thread between any two steps.

    Args:
        codec: keeps the parts that are not in shared memory.
        max_payload: maximum size of a payload in bytes.
        tiers: the pool's backends, which say whether their slots share memory.
    """

    def __init__(self, codec: CallCodec, max_payload: int, tiers: tuple[TierSettings, ...]) -> None:
        self._codec = codec
        self._max_payload = max_payload
        self._tiers = tiers
        self._memory: SharedSegments | None = None
        self._memories: dict[str, SharedSegments] = {}

    def snapshot(self, parts: Sequence[Buffer]) -> bytes | Sequence[Buffer]:
        """Return an encoded call in the form in which a `Call` keeps it: a snapshot of its arguments.

        Raises:
            FrameTooLargeError: the payload is larger than ``max_payload``.
        """
        return sendable(parts, self._max_payload, self._keep)

    def _keep(self, parts: Sequence[Buffer], size: int) -> Sequence[Buffer]:
        """Return a snapshot of a large payload: in shared memory if there is room, otherwise in parts."""
        memory = self.shared_memory()
        lasting = parts if isinstance(parts, PayloadParts) else None
        # Pieces that runners get once are for runners elsewhere too, so they stay as they are.
        kept = None if memory is None or (lasting is not None and lasting.pieces) else memory.keep(parts, size)
        if kept is None:
            return self._codec.keep(parts)
        if lasting is not None:
            kept.contents, kept.held = lasting.contents, lasting.held
        return kept

    def shared_memory(self) -> SharedSegments | None:
        """Return the memory that the pool shares with slots on this machine; None if it shares none."""
        if self._memory is None and any(tier.backend.shares_memory for tier in self._tiers):
            # Imported for the first large payload. Two threads may come here at once, and get one object.
            try:
                from dragonfly_executor.engine.shared_memory import SharedSegments
            except (ImportError, MemoryError, OSError):
                return None  # no descriptor or memory for the import: payloads travel over the stream

            limit = sum(tier.backend.shared_memory_limit() for tier in self._tiers)
            self._memory = self._memories.setdefault("", SharedSegments(limit))
        return self._memory

    def close(self) -> None:
        """Release the shared memory. This is one of the last steps of the engine thread."""
        if self._memory is not None:
            self._memory.close()

    def abandon(self) -> None:
        """Close the descriptors in a forked child. They belong to the process that forked."""
        if self._memory is not None:
            self._memory.abandon()
