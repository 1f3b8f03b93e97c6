"""The shared objects of a pool: pickles them, and stores their bytes in the parent."""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.backends.local import LocalBackend
from dragonfly_executor.protocol.shared_entries import INLINE_SIZE, NO_DESCRIPTOR, NO_DIGEST, SharedEntry
from dragonfly_executor.serialization.shared_object import SharedContent, SharedObject
from dragonfly_executor.transport.sealed_memory import SealedMemory, is_reachable
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dragonfly_executor.engine.tier_settings import TierSettings
    from dragonfly_executor.serialization import CallCodec

SEALED_FROM = 1024 * 1024
"""Smallest size in bytes of an object that gets memory, and a descriptor, of its own."""


class BytesInMemory:
    """The bytes of a shared object as one bytes object."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data

    def view(self) -> memoryview:
        """Return the bytes.

        Raises:
            ValueError: the memory is closed.
        """
        if self._data is None:
            raise ValueError("the memory is closed")
        return memoryview(self._data)

    def close(self) -> None:
        """Free the bytes."""
        self._data = None


class SharedContents:
    """The shared objects of one pool. Any thread may use it.

    Handles and payloads keep the contents; the codec's registry knows them.

    Args:
        codec: encodes the objects.
        max_payload: maximum size of an object in bytes.
        tiers: the pool's backends.
    """

    def __init__(self, codec: CallCodec, max_payload: int, tiers: Sequence[TierSettings]) -> None:
        self._codec = codec
        self._max_payload = max_payload
        self._tiers = tiers

    def share(self, value: Any) -> SharedObject[Any]:
        """Pickle an object, and return its handle.

        Raises:
            CallSerializationError: the object cannot be pickled.
            SharedObjectError: the pool's serializer cannot share objects.
            FrameTooLargeError: the object is larger than ``max_payload``.
        """
        encoded = self._codec.encode_shared(value)
        size = sum(map(len, encoded.parts))
        if size > self._max_payload:
            raise errors.FrameTooLargeError(
                f"the shared object takes {size} bytes, more than max_payload={self._max_payload}"
            )
        number = self._codec.contents.next_number()
        content = SharedContent(
            encoded.owner, *self._stored(number, size, encoded.parts), encoded.names, encoded.contents
        )
        self._codec.contents.add(content)
        return SharedObject(content, type(value).__qualname__)

    def _stored(
        self, number: int, size: int, parts: list[bytes | memoryview]
    ) -> tuple[SharedEntry, SealedMemory | BytesInMemory | None]:
        """Store a copy of the pickle, and return its entry with it."""
        if size <= INLINE_SIZE:
            return SharedEntry(number, size, NO_DIGEST, NO_DESCRIPTOR, 0, b"".join(parts)), None
        # Imported only here, because that takes milliseconds, and most pools share no object.
        from hashlib import sha256

        memory: SealedMemory | BytesInMemory
        descriptor, inode, needs_digest = NO_DESCRIPTOR, 0, True
        if size < SEALED_FROM:
            memory = BytesInMemory(b"".join(parts))
        else:
            try:
                memory = SealedMemory(parts)
                descriptor, inode = memory.descriptor, memory.inode
                needs_digest = not (self._is_local() and is_reachable())
            except OSError:  # another system, or no descriptor or no such memory is left
                memory = BytesInMemory(b"".join(parts))
        digest = sha256(memory.view()).digest() if needs_digest else NO_DIGEST
        return SharedEntry(number, size, digest, descriptor, inode, b""), memory

    def _is_local(self) -> bool:
        """Return True if all runners of the pool are child processes of this process."""
        # The class itself: a subclass may run its agents behind anything.
        return all(type(tier.backend) is LocalBackend for tier in self._tiers)
