"""The pools of this process by name, and the backend that pools get where none is named."""

from __future__ import annotations

import weakref

from dragonfly_executor.util.condition import RLock, holding

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Generic, Protocol, TypeVar

    from dragonfly_executor.backends.base import Backend

    class NamedPool(Protocol):
        """A pool, as far as the registry needs it."""

        name: str

        @property
        def is_shut_down(self) -> bool:
            """Whether the pool accepts no more calls."""

    P = TypeVar("P", bound=NamedPool)
else:
    P, Generic = object, {object: object}  # Generic[P] is a plain base class


class Registry(Generic[P]):
    """The pools of this process by name, and the backend that pools get where none is named.

    Both belong to the program, as a logger's name does: `call("media", fn)` finds its pool from anywhere. So the
    registry owns a named pool until the pool is shut down. After that it finds the pool while the program holds it.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._pools: weakref.WeakValueDictionary[str, P] = weakref.WeakValueDictionary()
        self._owned: dict[str, P] = {}
        self._backend: Backend | None = None

    def configure(self, *, backend: Backend) -> None:
        """Set the backend of the pools that are made without one from now on."""
        check_backend(backend)
        self._backend = backend

    def default_backend(self) -> Backend:
        """What `configure` set, else the local backend."""
        if self._backend is not None:
            return self._backend
        from dragonfly_executor.backends.local import LocalBackend

        return LocalBackend()

    def add(self, pool: P) -> None:
        """Make a pool known; ValueError if its name is taken."""
        holding(self._lock, lambda: self._add(pool))

    def _add(self, pool: P) -> None:
        known = self._pools.get(pool.name)
        if known is not None and not known.is_shut_down:
            raise ValueError(f"there is a pool named {pool.name!r} already; shut it down, or take another name")
        self._pools[pool.name] = self._owned[pool.name] = pool

    def release(self, pool: P) -> None:
        """Own a pool no longer: it is shut down, or could not be made. Nothing happens if it is not owned."""
        holding(self._lock, lambda: self._release(pool))

    def _release(self, pool: P) -> None:
        if self._owned.get(pool.name) is pool:
            del self._owned[pool.name]

    def find(self, name: str) -> P:
        """The pool of this name; KeyError, naming those that there are, if there is none."""
        pool = self._pools.get(name)
        if pool is None:
            raise KeyError(f"no pool is named {name!r}; there are: {', '.join(sorted(self._pools)) or 'none'}")
        return pool


def check_backend(backend: Backend) -> None:
    """TypeError for what cannot boot."""
    if isinstance(backend, type) or not callable(getattr(backend, "boot", None)):
        raise TypeError(f"backend must be a Backend, as LocalBackend() is, not {backend!r}")
