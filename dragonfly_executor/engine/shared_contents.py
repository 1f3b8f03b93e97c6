"""The contents that the runners of a pool get once: shared objects, and the values of futures among arguments."""

from __future__ import annotations

import weakref
from threading import Lock

from dragonfly_executor import errors
from dragonfly_executor.backends.local import LocalBackend
from dragonfly_executor.protocol.shared_entries import INLINE_SIZE, NO_DESCRIPTOR, NO_DIGEST, SharedEntry
from dragonfly_executor.serialization.shared_object import SharedContent, SharedObject
from dragonfly_executor.transport.sealed_memory import SealedMemory, is_reachable
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from typing import Any

    from dragonfly_executor.engine.outcome import Unopened
    from dragonfly_executor.engine.tier_settings import TierSettings
    from dragonfly_executor.serialization import CallCodec
    from dragonfly_executor.serialization.shared_object import EncodedObject

VALUE_INLINE_SIZE = 64 * 1024
"""Largest size in bytes of a future's value that travels inside each call that needs it."""
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
        # By weak references: the calls that need a value keep it.
        self._values: weakref.WeakKeyDictionary[Future[Any], weakref.ref[SharedContent]] = weakref.WeakKeyDictionary()
        # Only worker threads, which get no interrupt, hold this lock.
        self._lock = Lock()
        self.has_values = False
        """True once a call has waited for a future: from then on, runners keep large results."""

    def share(self, value: Any) -> SharedObject[Any]:
        """Pickle an object, and return its handle.

        Raises:
            CallSerializationError: the object cannot be pickled.
            SharedObjectError: the pool's serializer cannot share objects.
            FrameTooLargeError: the object is larger than ``max_payload``.
        """
        content = self._encode(value, self._codec.contents.next_number(), INLINE_SIZE)
        return SharedObject(content, type(value).__qualname__)

    def value_of(self, future: Future[Any], number: int, unopened: Unopened | None) -> SharedContent:
        """Return the value of a future as the content with this number. It is pickled once for several calls.

        A value that no thread has asked for stays as its slot has sent it, if other slots can open that.

        Each call gets a content with a number of its own, so that slots open the value anew for each call, as any other
        argument. The contents of one value have one memory and one digest, so a host gets a large value once.

        Args:
            future: the future, which has a value.
            number: a new number of the codec's registry.
            unopened: the value as its slot has sent it, if no thread has asked for it.

        Raises:
            CallSerializationError: the value cannot be pickled again.
            FrameTooLargeError: it is larger than ``max_payload``.
        """
        with self._lock:
            reference = self._values.get(future)
        known = None if reference is None else reference()
        if known is None:
            content = self._encode_value(future, number, unopened)
        else:
            entry = known.entry._replace(number=number)
            content = SharedContent(known.owner, entry, known.memory, known.names, known.contents)
            content.result_of = known.result_of
            self._codec.contents.add(content)
        with self._lock:
            self._values[future] = weakref.ref(content)
        return content

    def _encode_value(self, future: Future[Any], number: int, unopened: Unopened | None) -> SharedContent:
        encoded = None if unopened is None else self._codec.forwarded(unopened[0])
        if unopened is None or encoded is None:
            return self._encode(future.result(), number, VALUE_INLINE_SIZE)
        return self._content(encoded, number, VALUE_INLINE_SIZE, unopened[1])

    def _encode(self, value: Any, number: int, inline_size: int) -> SharedContent:
        """Pickle an object, and return it as the content with this number.

        Args:
            value: the object.
            number: a new number of the codec's registry.
            inline_size: largest size in bytes of an object that travels in the table of each call.
        """
        return self._content(self._codec.encode_shared(value), number, inline_size)

    def _content(
        self, encoded: EncodedObject, number: int, inline_size: int, result_of: tuple[int, int] | None = None
    ) -> SharedContent:
        size = sum(map(len, encoded.parts))
        if size > self._max_payload:
            raise errors.FrameTooLargeError(
                f"the shared object takes {size} bytes, more than max_payload={self._max_payload}"
            )
        entry, memory = self._stored(number, size, encoded.parts, inline_size)
        content = SharedContent(encoded.owner, entry, memory, encoded.names, encoded.contents)
        content.result_of = result_of
        self._codec.contents.add(content)
        return content

    def _stored(
        self, number: int, size: int, parts: list[bytes | memoryview], inline_size: int
    ) -> tuple[SharedEntry, SealedMemory | BytesInMemory | None]:
        """Store a copy of the pickle, and return its entry with it."""
        if size <= inline_size:
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
