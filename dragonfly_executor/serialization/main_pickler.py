"""Picklers that refer to functions and classes of the script's own module by name.

`NamePickler` pickles by reference only. It raises `NeedsValueError` for an object that has to travel by value. The call
is then pickled again by the pickler in `cloudpickle_pickler`, which imports cloudpickle.
"""

from __future__ import annotations

import copyreg
import sys
from _contextvars import Context, ContextVar  # `contextvars` is this module, in one more file
from operator import mul
from types import FunctionType

from dragonfly_executor.serialization import rebuild
from dragonfly_executor.serialization.module_origin import findable
from dragonfly_executor.serialization.shared_object import SharedObject
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.plain_pickle import Pickler, PicklingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

    from dragonfly_executor.serialization.code_table import CodeTable
    from dragonfly_executor.serialization.shared_object import SharedContent

# The names of the script's own module: in the parent, and in a process that imported it (multiprocessing's convention).
MAIN_NAMES = frozenset({"__main__", "__mp_main__"})


OBJECT_MODULES = frozenset(
    f"multiprocessing.{name}"
    for name in ("connection", "managers", "queues", "shared_memory", "sharedctypes", "synchronize")
)
"""The modules whose objects the parent serves to slots."""
OBJECT_MARK = b"multiprocessing."
"""In every pickle that refers to one of these modules."""
_ALWAYS_FOUND = frozenset({"builtins", rebuild.__name__})
_DEFAULT_REDUCE: tuple[Any, Any] = (object.__reduce_ex__, object.__reduce__)


class NeedsValueError(PicklingError):
    """The error for an object that the far side cannot find by name."""


class MainView:
    """One side's view of ``__main__``."""

    @property
    def namespace(self) -> dict[str, Any]:
        """Return the module's dictionary."""
        raise NotImplementedError

    def name_of(self, found: Any) -> str | None:
        """Return the name under which the far side has this very object too, or None."""
        raise NotImplementedError


def lookup(namespace: dict[str, Any], qualname: str) -> Any:
    """Return the object that a dotted name refers to in a namespace; None if there is none."""
    first, *rest = qualname.split(".")
    found = namespace.get(first)
    for part in rest:
        found = getattr(found, part, None)
    return found


def name_in(namespace: dict[str, Any], found: Any) -> str | None:
    """Return the dotted name under which a namespace has this very object, or None."""
    for attribute in ("__qualname__", "__name__"):
        qualname = getattr(found, attribute, None)
        if type(qualname) is str and lookup(namespace, qualname) is found:
            return qualname
    return None


def importable(name: object) -> bool:
    """Return True if the far side, importing this name, loads the same file as this side's module of this name."""
    return isinstance(name, str) and name not in MAIN_NAMES and findable(name)


def by_reference(found: Any) -> bool:
    """Return True if a function or class can be found by its name in its module, wherever that module is imported."""
    name = getattr(found, "__module__", None)
    return name is not None and importable(name) and name_in(sys.modules[name].__dict__, found) is not None


class NameTracking:
    """A pickler mixin that refers to objects of ``__main__`` by name, and records the names.

    Attributes:
        main: this side's ``__main__``.
        owners: top-level names that are being defined; they are embedded, not referred to.
        returning: True for a result: the other side's classes are the real ones.
        hard: top-level names that must exist before this pickle is opened.
        soft: top-level names that the code in this pickle uses when it runs.
        attributes: every name that this code uses, attributes included.
        codes: the code objects in this pickle, each with the package that its relative imports start from.
        table: the code objects that this side has written.
        shared: the shared objects in this pickle, and those inside them, by number.
        held: multiprocessing's objects in this pickle, which must exist as long as the pickle is used.
        refer: returns the reduction of one of these, and adds it to `held`; None if they cannot travel.
        number_of: returns the number of the content that stands for an object; None for an object that is pickled. None
            if all objects are pickled.
    """

    main: MainView
    owners: frozenset[str]
    returning: bool
    hard: set[str]
    soft: set[str]
    attributes: set[str]
    codes: list[tuple[CodeType, str]]
    table: CodeTable
    shared: dict[int, SharedContent]
    held: list[object]
    refer: Callable[[Any, list[object]], Any] | None = None
    number_of: Callable[[Any], int | None] | None = None

    def track(self, main: MainView, owners: frozenset[str], returning: bool, table: CodeTable) -> None:
        """Set the parameters, and clear the recorded names."""
        self.main, self.owners, self.returning, self.table = main, owners, returning, table
        self.hard, self.soft, self.attributes, self.codes = set(), set(), set(), []
        self.shared, self.held = {}, []

    def reducer_override(self, found: Any) -> Any:
        """Reduce functions, classes and objects that may pickle by name. The C pickler calls this."""
        kind = type(found)
        if kind is FunctionType or issubclass(kind, type):
            return self._definition(found)
        if type(kind) is not type and type(kind).__module__ == "_ctypes" and self.refer is not None:
            return self.refer(found, self.held)
        if kind.__module__ in MAIN_NAMES or kind.__module__ in ("typing", "functools"):
            return self._named(found)
        if kind is SharedObject:
            return self._shared(found)
        if kind is ContextVar:
            return self._context_variable(found)
        if kind.__module__ in OBJECT_MODULES and self.refer is not None:
            return self.refer(found, self.held)
        if self.number_of is not None and (number := self.number_of(found)) is not None:
            return rebuild.shared_object, (number,)
        return NotImplemented

    def _context_variable(self, found: ContextVar[Any]) -> Any:
        """Refer to a context variable by its name in its module. If slots do not find that, they make a new one."""
        home, name = rebuild.home_of_variable(found) or (None, found.name)
        if home in MAIN_NAMES and name not in self.owners:
            self.hard.add(name)
            return rebuild.main_attribute, (name,)
        if home not in MAIN_NAMES and importable(home):
            return rebuild.context_variable, (home, name)
        default: tuple[Any, ...]
        try:
            default = (Context().run(found.get),)
        except LookupError:
            default = ()
        return rebuild.new_context_variable, (found.name, default)

    def _shared(self, found: SharedObject[Any]) -> Any:
        """Refer to a shared object by its number.

        The names that the object needs become names of the call, so that a slot opens it with their current values.
        """
        content = found.content_for(self.main)
        self.shared |= content.all_contents()
        for inside in content.all_contents().values():
            self.hard |= inside.names
        return rebuild.shared_object, (content.entry.number,)

    def _definition(self, found: Any) -> Any:
        home = getattr(found, "__module__", None)
        if home in MAIN_NAMES:
            return self._by_name(found) or _array_type(found) or self.by_value(found)
        if home in _ALWAYS_FOUND or by_reference(found):
            return NotImplemented
        return _array_type(found) or self.by_value(found)

    def _by_name(self, found: Any) -> Any:
        name = self.main.name_of(found)
        root = name.partition(".")[0] if name is not None else None
        if root is None or root in self.owners:
            return None
        self.hard.add(root)
        return rebuild.main_attribute, (name,)

    def _named(self, found: Any) -> Any:
        """Reduce an object that may pickle as a name in its module. In ``__main__``, reduce it like a function."""
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
        """Return the reduction of a function or class that the far side cannot look up.

        Raises:
            NeedsValueError: this pickler pickles by reference only.
        """
        raise NeedsValueError(f"{_describe(found)} cannot be imported by a runner")


class NamePickler(NameTracking, Pickler):
    """A pickler that pickles by reference only."""


def _array_type(found: Any) -> Any:
    """Return the reduction of an array type of ctypes, which is made by a multiplication; None for all others.

    Raises:
        PicklingError: it is the type of a C library's functions.
    """
    kind = type(found).__name__
    if kind == "PyCFuncPtrType":
        raise PicklingError("functions of C libraries cannot be pickled")
    if kind != "PyCArrayType":
        return None
    element, length = found._type_, found._length_
    return (mul, (element, length)) if element * length is found else None


def _describe(found: Any) -> str:
    name = getattr(found, "__qualname__", None) or type(found).__qualname__
    return f"{getattr(found, '__module__', None)}.{name}"
