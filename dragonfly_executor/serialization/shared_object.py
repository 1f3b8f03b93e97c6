"""`SharedObject`: stands in arguments for an object that a runner gets once."""

from __future__ import annotations

from types import GenericAlias, TracebackType

from dragonfly_executor.errors import SharedObjectError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Any, Generic, TypeVar

    from dragonfly_executor.protocol.shared_entries import SharedEntry
    from dragonfly_executor.serialization.layout import Buffer

    T = TypeVar("T")
else:
    T, Generic = object, {object: object}  # Generic[T] is a plain base class


class SharedMemory(Protocol):
    """The bytes of a shared object in the parent."""

    def view(self) -> memoryview:
        """Return the bytes.

        Raises:
            ValueError: the memory is closed.
        """
        ...

    def close(self) -> None:
        """Free the bytes."""


class EncodedObject:
    """An object that was pickled to be shared.

    Args:
        owner, names, contents: as for `SharedContent`.
        parts: its pickle.
    """

    __slots__ = ("contents", "names", "owner", "parts")

    def __init__(
        self, owner: object, parts: list[Buffer], names: frozenset[str], contents: dict[int, SharedContent]
    ) -> None:
        self.owner = owner
        self.parts = parts
        self.names = names
        self.contents = contents


class SharedContent:
    """The parent's pickle of a shared object.

    Handles, payloads of calls, and the contents of other shared objects refer to it. It is freed when the last of them
    is gone.

    Args:
        owner: the parent's ``__main__``, as the codec of the pool sees it. It identifies the pool.
        entry: what calls say of the object.
        memory: the bytes; None if they stand in the entry.
        names: the top-level names of ``__main__`` that the object needs.
        contents: the shared objects inside it.

    Attributes:
        result_of: the number and the attempt of the call whose unopened result this is; None if it is none.
    """

    result_of: tuple[int, int] | None = None

    def __init__(
        self,
        owner: object,
        entry: SharedEntry,
        memory: SharedMemory | None,
        names: frozenset[str],
        contents: dict[int, SharedContent],
    ) -> None:
        self.owner = owner
        self.entry = entry
        self.memory = memory
        self.names = names
        self.contents = contents

    def all_contents(self) -> dict[int, SharedContent]:
        """Return this content and the contents inside it, by number."""
        return {**self.contents, self.entry.number: self}


class SharedObject(Generic[T]):
    """A handle of an object that was pickled once, and that each runner gets at most once.

    `Pool.share` and `DragonflyExecutor.share` make it. In the arguments of a call, at any depth, it stands for the
    object: the call gets the object itself. The object is kept until the handle is closed or garbage-collected and the
    calls that use it have ended, or until the pool ends.
    """

    __slots__ = ("__weakref__", "_content", "_kind", "_number", "_size")

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(GenericAlias)

    def __init__(self, content: SharedContent, kind: str) -> None:
        self._content: SharedContent | None = content
        self._number = content.entry.number
        self._size = content.entry.size
        self._kind = kind

    @property
    def size(self) -> int:
        """The size of the pickled object in bytes."""
        return self._size

    @property
    def closed(self) -> bool:
        """True if the handle was closed. Calls can no longer be submitted with it."""
        return self._content is None

    def close(self) -> None:
        """Let go of the object. Calls that were accepted before still get it."""
        self._content = None

    def content_for(self, owner: object) -> SharedContent:
        """Return the content for a call of the pool with this owner.

        Raises:
            SharedObjectError: the handle is closed, or belongs to another pool.
        """
        content = self._content
        if content is None:
            raise SharedObjectError(f"{self!r} is closed: share the object again, or close the handle later")
        if content.owner is not owner:
            raise SharedObjectError(f"{self!r} belongs to another pool: share the object with the pool of the call")
        return content

    def as_argument(self) -> T:
        """Return this handle, which type checkers then take for the object.

        So it can be passed to a function whose parameter has the object's type. A ``with`` statement has the same
        effect.
        """
        return self  # type: ignore[return-value]  # it stands for the object in calls

    def __enter__(self) -> T:
        return self.as_argument()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<{state}SharedObject {self._number}: {self._kind}, {self._size} bytes>"

    def __reduce_ex__(self, protocol: object) -> Any:
        raise SharedObjectError(
            f"{self!r} cannot be pickled: it stands for its object in the arguments of a call of its pool, with the "
            'serializer "cloudpickle", "dill" or "pickle"'
        )
