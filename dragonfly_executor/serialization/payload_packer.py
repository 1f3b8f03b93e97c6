"""`PayloadPacker`: makes payloads of the pieces of calls."""

from __future__ import annotations

from threading import Lock

from dragonfly_executor import errors
from dragonfly_executor.protocol.shared_entries import pack_entries
from dragonfly_executor.serialization.layout import (
    READ_ONLY,
    WITH_PATH,
    WITH_SHARED,
    pack,
    snapshot,
    views,
    with_part,
)
from dragonfly_executor.serialization.payload_parts import LEAST, PayloadParts, holding_contents, with_buffers
from dragonfly_executor.serialization.repeated_buffers import RepeatedBuffers
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dragonfly_executor.serialization.content_registry import ContentRegistry
    from dragonfly_executor.serialization.import_environment import ImportEnvironment
    from dragonfly_executor.serialization.layout import Buffer, Received
    from dragonfly_executor.serialization.shared_object import SharedContent


class PayloadPacker:
    """Makes the payloads of one codec. Any thread.

    Args:
        environment: knows the changes of ``sys.path`` that calls bring along.
        registry: gets the pieces that runners get once.
        copies: whether payloads are copies of what the caller can still change. If not, `keep` copies.
        read_only: whether slots open them with read-only buffers.

    Attributes:
        flags: of every box.
    """

    def __init__(
        self, environment: ImportEnvironment, registry: ContentRegistry, *, copies: bool, read_only: bool
    ) -> None:
        self.flags = READ_ONLY if read_only else 0
        self._pieces: Callable[[Iterable[Received]], list[Buffer]] = snapshot if copies else views
        self._environment = environment
        self._copies = copies
        self._registry = registry
        self._repeats = RepeatedBuffers(registry)
        self._lock = Lock()

    def pack(
        self,
        flags: int,
        definitions: bytes,
        body: Sequence[Received],
        buffers: list[memoryview],
        large: list[memoryview],
        shared: dict[int, SharedContent],
        carried: Callable[[], int] = lambda: 0,
    ) -> list[Buffer]:
        """Return a call's payload as a box.

        Args:
            flags: of the box.
            definitions: what slots need first; `large` are the buffers of these.
            body: the pickle of the call; `buffers` are those beside it.
            shared: the shared objects that the call needs, by their number.
            carried: returns how many of `buffers` belong to the function; they come first.
        """
        path = self._environment.path
        if path:
            flags, definitions = flags | WITH_PATH, with_part(path, definitions)
        if shared:
            table = pack_entries(content.entry for content in shared.values())
            flags, definitions = flags | WITH_SHARED, with_part(table, definitions)
        all_buffers = [*large, *buffers]
        packed = pack(flags | self.flags, definitions, self._pieces(body), all_buffers, copy=False, first=len(large))
        # A head and the definitions are one piece if there are buffers.
        start = 1 + len(body) if all_buffers else 0
        if not self._copies:
            parts = with_buffers(packed, start) if start else packed
        elif max(map(len, packed)) < LEAST:
            parts = snapshot(packed)
        else:
            places = _places(packed, start, all_buffers)
            snapped = self._snapshot(packed)
            count = len(large)
            if buffers and self._has_unknown([snapped[place] for place in places[count:]]):
                # Outside of the lock: it runs the user's code.
                count += carried()
            parts = self._marked(snapped, start, places[:count])
        return holding_contents(parts, tuple(shared.values())) if shared else parts

    def plain(self, pieces: Sequence[Received]) -> list[Buffer]:
        """Return the payload of a call that needs no box."""
        return self._marked(self._pieces(pieces))

    def keep(self, parts: Sequence[Received]) -> Sequence[Received]:
        """Return the pieces of a payload in a form that may be kept: a snapshot of the call's arguments.

        Raises:
            CallSerializationError: there is no memory for the snapshot.
        """
        if self._copies:
            return parts
        try:
            kept = self._snapshot(parts)
        except MemoryError as exc:
            size = sum(map(len, parts))
            text = f"the call's arguments, of {size} bytes, cannot be copied: there is no memory for them"
            raise errors.CallSerializationError(text) from exc
        if max(map(len, kept)) >= LEAST:
            with self._lock:
                kept = self._repeats.mark(kept, parts.buffers_from if isinstance(parts, PayloadParts) else 0)
        if not isinstance(parts, PayloadParts):
            return kept
        held = holding_contents(kept, parts.contents)
        held.held = parts.held
        return held

    def forget(self) -> None:
        """Drop the pieces that are kept for later calls."""
        # Without the lock: in a forked child, another thread may have held it.
        self._repeats = RepeatedBuffers(self._registry)

    def _snapshot(self, parts: Sequence[Received]) -> list[Buffer]:
        """Return the pieces, with a copy of each that may still change, unless its bytes are known."""
        if max(map(len, parts)) >= LEAST:
            with self._lock:
                parts = self._repeats.known(parts)
        return snapshot(parts)

    def _has_unknown(self, parts: list[Buffer]) -> bool:
        with self._lock:
            return self._repeats.unknown(parts)

    def _marked(self, parts: list[Buffer], start: int = 0, recurring: Sequence[int] = ()) -> list[Buffer]:
        """Mark the large pieces of a payload that runners get once. See `RepeatedBuffers.mark`."""
        if not self._copies or max(map(len, parts)) < LEAST:
            return parts
        with self._lock:
            return self._repeats.mark(parts, start, recurring)


def _places(packed: list[Buffer], start: int, buffers: list[memoryview]) -> list[int]:
    """Return the indices of the buffers among the pieces of a box."""
    places, index = [], start
    for buffer in buffers:
        while packed[index] is not buffer:
            index += 1  # padding
        places.append(index)
        index += 1
    return places
