"""The pools of this process by name, and the default backend."""

from __future__ import annotations

import weakref
from itertools import count

from dragonfly_executor.util.condition import RLock, holding
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any, Generic, Protocol, TypeVar

    from dragonfly_executor.backends.base import Backend

    class NamedPool(Protocol):
        """A pool, as the registry uses it."""

        name: str

        @property
        def is_shut_down(self) -> bool:
            """True if the pool accepts no more calls."""
            ...

        @property
        def has_ended(self) -> bool:
            """True if nothing of the pool is left, or it belongs to the process that this one was forked from."""
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
        self._numbers = count(1)
        self._all: weakref.WeakValueDictionary[int, P] = weakref.WeakValueDictionary()
        """All pools of this process, those without a name too, in the order in which they were made."""
        self._backends: tuple[Backend, ...] = ()

    def configure(self, *, backend: Backend | Sequence[Backend]) -> Configured:
        """Set the backend, or several, of pools that are made without one from now on."""
        before, self._backends = self._backends, check_backends(backend)
        return Configured(self, before)

    def set_back(self, backends: tuple[Backend, ...]) -> None:
        """Set the backends from before a `configure`; the empty tuple for none."""
        self._backends = backends

    def default_backends(self) -> tuple[Backend, ...]:
        """Return the backends that `configure` set, otherwise a local one."""
        if self._backends:
            return self._backends
        from dragonfly_executor.backends.local import LocalBackend

        return (LocalBackend(),)

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

    def note(self, pool: P) -> None:
        """Note a pool that `live_pools` returns until it has ended."""
        self._all[next(self._numbers)] = pool

    def live_pools(self) -> list[P]:
        """Return all pools of this process that have not ended, the oldest first."""
        return [pool for _, pool in sorted(self._all.items()) if not pool.has_ended]

    def find(self, name: str) -> P:
        """Return the pool of this name.

        Raises:
            KeyError: there is none; the text has the known names.
        """
        pool = self._pools.get(name)
        if pool is None:
            raise KeyError(f"no pool is named {name!r}; the pools are: {', '.join(sorted(self._pools)) or 'none'}")
        return pool


class Configured:
    """The result of `configure`. As a context manager, it undoes the `configure` at the end of the ``with`` block."""

    __slots__ = ("_before", "_registry")

    def __init__(self, registry: Registry[Any], before: tuple[Backend, ...]) -> None:
        self._registry = registry
        self._before = before

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._registry.set_back(self._before)


def check_backends(backend: Backend | Sequence[Backend]) -> tuple[Backend, ...]:
    """Return the backends of a pool, in order of preference.

    Args:
        backend: a backend, or a list or tuple of several.

    Raises:
        TypeError: an object cannot boot.
        ValueError: there is no backend, or one comes twice.
    """
    if not isinstance(backend, (list, tuple)):
        return (_checked(backend, "backend must be a Backend, such as LocalBackend(), or a list of several"),)
    if not backend:
        raise ValueError("backend must be a Backend, such as LocalBackend(), or a list of several, not an empty list")
    for index, each in enumerate(backend):
        _checked(each, f"backend[{index}] must be a Backend, such as LocalBackend()")
        if any(each is other for other in backend[:index]):
            raise ValueError(f"backend[{index}] is in the list twice: {each!r}; raise its max= for more runners")
    return tuple(backend)


def _checked(backend: Any, text: str) -> Backend:
    """Return a backend. Raises TypeError, with this text, for an object that cannot boot."""
    if isinstance(backend, type) or not callable(getattr(backend, "boot", None)):
        raise TypeError(f"{text}, not {backend!r}")
    checked: Backend = backend
    return checked
