"""The pools of this process by name, and the default backend."""

from __future__ import annotations

import weakref

from dragonfly_executor.util.condition import RLock, holding
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Generic, Protocol, TypeVar

    from dragonfly_executor.backends.base import Backend

    class NamedPool(Protocol):
        """A pool, as the registry uses it."""

        name: str

        @property
        def is_shut_down(self) -> bool:
            """True if the pool accepts no more calls."""
            ...

    P = TypeVar("P", bound=NamedPool)
else:
    P, Generic = object, {object: object}  # Generic[P] is a plain base class


class Registry(Generic[P]):
    """A registry of the pools of this process by name, and the default backend.

    Both belong to the program, like the name of a logger: `call("media", fn)` finds its pool from anywhere. So the
    registry owns a named pool until the pool is shut down. After that, the registry finds the pool while the program
    holds it.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._pools: weakref.WeakValueDictionary[str, P] = weakref.WeakValueDictionary()
        self._owned: dict[str, P] = {}
        self._backend: Backend | None = None

    def configure(self, *, backend: Backend) -> None:
        """Set the backend of pools that are made without one from now on."""
        check_backend(backend)
        self._backend = backend

    def default_backend(self) -> Backend:
        """Return the backend that `configure` set, otherwise a local one."""
        if self._backend is not None:
            return self._backend
        from dragonfly_executor.backends.local import LocalBackend

        return LocalBackend()

    def add(self, pool: P) -> None:
        """Add a pool.

        Raises:
            ValueError: its name is taken.
        """
        holding(self._lock, lambda: self._add(pool))

    def _add(self, pool: P) -> None:
        known = self._pools.get(pool.name)
        if known is not None and not known.is_shut_down:
            raise ValueError(f"a pool named {pool.name!r} exists already: shut it down, or choose another name")
        self._pools[pool.name] = self._owned[pool.name] = pool

    def release(self, pool: P) -> None:
        """Stop owning a pool that is shut down, or could not be made. Does nothing if it is not owned."""
        holding(self._lock, lambda: self._release(pool))

    def _release(self, pool: P) -> None:
        if self._owned.get(pool.name) is pool:
            del self._owned[pool.name]

    def find(self, name: str) -> P:
        """Return the pool of this name.

        Raises:
            KeyError: there is none; the text has the known names.
        """
        pool = self._pools.get(name)
        if pool is None:
            raise KeyError(f"no pool is named {name!r}; the pools are: {', '.join(sorted(self._pools)) or 'none'}")
        return pool


def check_backend(backend: Backend) -> None:
    """Raise TypeError if this object cannot boot."""
    if isinstance(backend, type) or not callable(getattr(backend, "boot", None)):
        raise TypeError(f"backend must be a Backend, such as LocalBackend(), not {backend!r}")
