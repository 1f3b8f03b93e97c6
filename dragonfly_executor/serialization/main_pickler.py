"""Picklers that know the script's own module: its functions and classes are referred to by name.

`NamePickler` does that and no more; what has to travel by value makes it raise `NeedsValue`, and the call is pickled
again by the pickler of `cloudpickle_pickler`, which needs cloudpickle.
"""

from __future__ import annotations

import copyreg
import sys
from pickle import Pickler, PicklingError
from types import FunctionType

from dragonfly_executor.serialization import rebuild
from dragonfly_executor.serialization.module_origin import findable

# Type checkers take this name for true. A runner imports this module, and has no other use for typing, which is slow.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

# What the script's own module is called: in the parent, and in a process that imported it (as multiprocessing does).
MAIN_NAMES = frozenset({"__main__", "__mp_main__"})


_DEFAULT_REDUCE: tuple[Any, Any] = (object.__reduce_ex__, object.__reduce__)


class NeedsValue(PicklingError):
    """Something in here cannot be found by name on the far side."""


class MainView:
    """One side's idea of ``__main__``."""

    @property
    def namespace(self) -> dict[str, Any]:
        """The module's dictionary."""
        raise NotImplementedError

    def name_of(self, found: Any) -> str | None:
        """The name under which the far side has this very object too, or None."""
        raise NotImplementedError


def lookup(namespace: dict[str, Any], qualname: str) -> Any:
    """What a dotted name stands for in a namespace; None if nothing."""
    first, *rest = qualname.split(".")
    found = namespace.get(first)
    for part in rest:
        found = getattr(found, part, None)
    return found


def name_in(namespace: dict[str, Any], found: Any) -> str | None:
    """The dotted name by which an object finds itself in a namespace, or None."""
    for attribute in ("__qualname__", "__name__"):
        qualname = getattr(found, attribute, None)
        if type(qualname) is str and lookup(namespace, qualname) is found:
            return qualname
    return None


def importable(name: object) -> bool:
    """Whether the far side imports under this name the file that the module of this name is from."""
    return isinstance(name, str) and name not in MAIN_NAMES and findable(name)


def by_reference(found: Any) -> bool:
    """Whether a function or class is what its module, imported anywhere, has under its name."""
    name = getattr(found, "__module__", None)
    return name is not None and importable(name) and name_in(sys.modules[name].__dict__, found) is not None


class Tracking:
    """What a pickler needs to refer by name to what lies in ``__main__``, and to note the names.

    Attributes:
        main: this side's ``__main__``.
        owners: top-level names that are being defined: they are not referred to, they are embedded.
        returning: whether this is a result: the other side's classes are the real ones.
        hard: top-level names that have to exist before this pickle is opened.
        soft: top-level names that the code in this pickle uses when it runs.
        attributes: every name that this code uses for anything, attributes too.
        codes: this code itself, each with the package that its relative imports start from.
    """

    main: MainView
    owners: frozenset[str]
    returning: bool
    hard: set[str]
    soft: set[str]
    attributes: set[str]
    codes: list[tuple[CodeType, str]]

    def track(self, main: MainView, owners: frozenset[str], returning: bool) -> None:
        """Begin: nothing has been met yet."""
        self.main, self.owners, self.returning = main, owners, returning
        self.hard, self.soft, self.attributes, self.codes = set(), set(), set(), []

    def reducer_override(self, found: Any) -> Any:
        """Called by the C pickler for all but the plainest objects."""
        kind = type(found)
        if kind is FunctionType or issubclass(kind, type):
            return self._definition(found)
        if kind.__module__ in MAIN_NAMES or kind.__module__ in ("typing", "functools"):
            return self._named(found)
        return NotImplemented

    def _definition(self, found: Any) -> Any:
        if getattr(found, "__module__", None) in MAIN_NAMES:
            return self._by_name(found) or self.by_value(found)
        if getattr(found, "__module__", None) == "builtins" or by_reference(found):
            return NotImplemented
        return self.by_value(found)

    def _by_name(self, found: Any) -> Any:
        name = self.main.name_of(found)
        root = name.partition(".")[0] if name is not None else None
        if root is None or root in self.owners:
            return None
        self.hard.add(root)
        return rebuild.main_attribute, (name,)

    def _named(self, found: Any) -> Any:
        """Objects that may pickle as a name in their module: those in ``__main__`` go the way of its functions."""
        if getattr(found, "__module__", None) not in MAIN_NAMES:
            return NotImplemented
        kind = type(found)
        if (kind.__reduce_ex__, kind.__reduce__) == _DEFAULT_REDUCE or kind in copyreg.dispatch_table:
            return NotImplemented
        reduced = found.__reduce_ex__(5)
        if not isinstance(reduced, str):
            return reduced
        root = reduced.partition(".")[0]
        if lookup(self.main.namespace, reduced) is not found or root in self.owners:
            return self.by_value(found)
        self.hard.add(root)
        return rebuild.main_attribute, (reduced,)

    def by_value(self, found: Any) -> Any:
        """How to rebuild a function or class that the far side cannot look up."""
        raise NeedsValue(f"{_describe(found)} cannot be imported by a runner")


class NamePickler(Tracking, Pickler):
    """By reference only."""


def _describe(found: Any) -> str:
    name = getattr(found, "__qualname__", None) or type(found).__qualname__
    return f"{getattr(found, '__module__', None)}.{name}"
