"""Finds the definitions that a call needs from the parent's ``__main__``, and pickles them."""

from __future__ import annotations

import builtins
import pickle
import sys
from types import CodeType, FunctionType, ModuleType

from dragonfly_executor import errors
from dragonfly_executor.serialization.buffer_cache import LEAST
from dragonfly_executor.serialization.code_names import all_names, code_names, submodules
from dragonfly_executor.serialization.global_fingerprint import fingerprint, same
from dragonfly_executor.serialization.main_pickler import MainView, importable, name_in
from dragonfly_executor.serialization.rebuild import ModuleReference, main_module
from dragonfly_executor.serialization.script import Bindings, bindings
from dragonfly_executor.util.condition import RLock, holding
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Set as AbstractSet
    from typing import Any

    # Maps the names of a definition to a version number, which grows when the bytes change, and to the bytes.
    Versions = dict[tuple[str, ...], tuple[int, bytes]]
    # Pickles an object in which the parts with these names are embedded. Returns the bytes, the hard names, the soft
    # names and the attribute names.
    Define = Callable[[Any, frozenset[str]], tuple[bytes, set[str], set[str], set[str]]]

# Names that every module has of its own. They never travel.
MODULE_OWN = frozenset({
    "__annotations__", "__builtins__", "__cached__", "__doc__", "__file__",
    "__loader__", "__name__", "__package__", "__path__", "__spec__",
})  # fmt: skip
_LATER = b"later"  # marks a module's definition, which is written once all code has been examined
_PLANS = 512  # sets of names remembered at most


class _Definition:
    """A global of ``__main__``, as it was last read."""

    __slots__ = ("data", "hard", "modules", "parts", "soft", "value")

    def __init__(self, value: Any, data: bytes | None, hard: set[str], soft: set[str]) -> None:
        self.value = value
        self.data = data  # None: the slot binds this name by importing the script
        self.hard = hard  # names that must exist before this pickle is opened
        self.soft = soft  # names that the code of this global uses
        self.parts: list[Any] | None = None  # fingerprint; None: the value may change in place
        self.modules = 0  # for a module: len(sys.modules) when its submodules were looked up

    @property
    def lasting(self) -> bool:
        """Return True if this definition may be cached.

        A value that may change in place is not cached: each call pickles it again.
        """
        return self.data is None or self.modules > 0 or self.parts is not None

    def unchanged(self, value: Any) -> bool:
        """Return True if the global is unchanged since this definition was made."""
        if value is not self.value:
            return False
        if self.modules:
            return self.modules == len(sys.modules)
        return self.data is None or (self.parts is not None and same(self.parts, fingerprint(value)))


class _Plan:
    """The definitions for one set of names, valid as long as none of them changes."""

    __slots__ = ("absent", "entries", "sent", "versions")

    def __init__(
        self,
        entries: dict[str, _Definition],
        absent: set[str],
        versions: Versions,
        sent: tuple[bytes, list[memoryview]],
    ) -> None:
        self.entries = entries
        self.absent = absent
        self.versions = versions
        self.sent = sent

    def holds(self, namespace: dict[str, Any], current: Versions) -> bool:
        """Return True if the plan is still valid."""
        if not namespace.keys().isdisjoint(self.absent):
            return False
        # A global that changed and changed back has a newer version than the plan's, and slots may have received that
        # version.
        if any(current[group] is not version for group, version in self.versions.items()):
            return False
        return all(entry.unchanged(namespace.get(name)) for name, entry in self.entries.items())


class ParentMain(MainView):
    """The parent's ``__main__``: finds the globals that must travel with a call, by following names through code.

    Thread-safe: pickling runs user code, so it holds no lock. Cached objects are replaced, never changed.
    """

    def __init__(self, define: Define, *, script_travels: bool = True) -> None:
        self._define = define
        self._script_travels = script_travels
        # An RLock taken by `holding`, because Ctrl-C may interrupt a caller.
        self._lock = RLock()
        self._counter = 0
        self._versions: Versions = {}
        self._known: dict[str, _Definition] = {}
        self._plans: dict[frozenset[str], _Plan] = {}
        self._attributes: frozenset[str] = frozenset()
        self._first = main_module()
        self._script: tuple[ModuleType | None, Bindings | None] = (None, None)

    @property
    def namespace(self) -> dict[str, Any]:
        """Return the dictionary of ``__main__``."""
        return main_module().__dict__

    @property
    def script(self) -> Bindings | None:
        """Return the names that importing the script binds; None if slots do not import it."""
        main = main_module()
        known, script = self._script
        if known is not main:
            # Slots import the script that was ``__main__`` when this object was made, and no other.
            script = bindings(main) if self._script_travels and main is self._first else None
            self._script = main, script
            self._known, self._plans = {}, {}
        return script

    def name_of(self, found: Any) -> str | None:
        """Return the name of an object in ``__main__``, or None."""
        return name_in(self.namespace, found)

    def definitions(self, roots: frozenset[str]) -> tuple[bytes, list[memoryview]]:
        """Return the pickled definitions that a call needs, and their out-of-band buffers.

        Args:
            roots: the top-level names that the call refers to.

        Returns:
            A pickled list of (names, version, bytes), or b"" if there are none; and its buffers.

        Raises:
            CallSerializationError: a global that the code uses cannot be pickled.
        """
        _ = self.script  # if another module has become __main__, this clears the caches
        plan = self._plans.get(roots)
        if plan is not None and plan.holds(self.namespace, self._versions):
            return plan.sent
        found, absent = self._collect(roots)
        travelling = {name: entry for name, entry in found.items() if entry.data is not None}
        versions: Versions = {}
        for group in _grouped(travelling):
            data = found[group[0]].data if len(group) == 1 else self._bundle(group, found)
            versions[group] = self._version(group, data or b"")
        plan = _Plan(travelling, absent, versions, _encoded(versions))
        if all(entry.lasting for entry in travelling.values()):
            if len(self._plans) >= _PLANS:
                self._plans = {}
            self._plans[roots] = plan
        return plan.sent

    def _collect(self, roots: Iterable[str]) -> tuple[dict[str, _Definition], set[str]]:
        found: dict[str, _Definition] = {}
        absent: set[str] = set()
        modules: list[str] = []
        waiting = list(roots)
        while waiting:
            name = waiting.pop()
            if name in found or name in MODULE_OWN:
                continue
            if name not in self.namespace:
                absent.add(name)
                continue
            entry = found[name] = self._read(name)
            if entry.data == _LATER:
                modules.append(name)
            waiting += entry.hard
            waiting += entry.soft
        for name in modules:  # last, because the code that uses the modules decides which submodules they need
            found[name] = self._module(name, found[name].value)
        return found, absent

    def _read(self, name: str) -> _Definition:
        value = self.namespace[name]
        entry = self._known.get(name)
        if entry is not None and entry.unchanged(value):
            return entry
        script = self.script
        if script is not None and name in script.imported:
            entry = _Definition(value, None, set(), _names_used(value, self.namespace, script.imported))
        elif type(value) is ModuleType and importable(value.__name__):
            return _Definition(value, _LATER, set(), set())
        else:
            entry = self._defined(name, value, script)
        if entry.lasting:
            self._known[name] = entry
        return entry

    def _defined(self, name: str, value: Any, script: Bindings | None) -> _Definition:
        parts = fingerprint(value)
        try:
            data, hard, soft, attributes = self._pickled({name: value}, name)
        except errors.CallSerializationError:
            if script is None or name in script.guarded:
                raise
            # Code that runs on import may bind this name by a global statement or through globals(). So rely on the
            # import.
            return _Definition(value, None, set(), set())
        holding(self._lock, lambda: self._learn(attributes))
        entry = _Definition(value, data, hard, soft)
        entry.parts = parts
        return entry

    def _learn(self, attributes: set[str]) -> None:
        self._attributes |= attributes

    def _module(self, name: str, value: ModuleType) -> _Definition:
        stand_in = ModuleReference(value.__name__, submodules(value, self._attributes))
        entry = _Definition(value, pickle.dumps({name: stand_in}, 5), set(), set())
        entry.modules = len(sys.modules)
        return entry

    def _bundle(self, group: tuple[str, ...], found: dict[str, _Definition]) -> bytes:
        """Pickle definitions that need each other before either can be opened, as one pickle."""
        return self._pickled({name: found[name].value for name in group}, " and ".join(group))[0]

    def _pickled(self, values: dict[str, Any], shown: str) -> tuple[bytes, set[str], set[str], set[str]]:
        try:
            return self._define(values, frozenset(values))
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # __reduce__ is user code
            root = f"the global {shown!r} of __main__, which the call uses,"
            text = f"{root} cannot be pickled: {type(exc).__name__}: {exc}{self._advice(values, exc)}"
            raise errors.CallSerializationError(text) from exc

    def _advice(self, values: dict[str, Any], exc: BaseException) -> str:
        if isinstance(exc, (RecursionError, MemoryError)):
            return ""
        from dragonfly_executor.serialization import unpicklable

        owners = frozenset(values)
        found = unpicklable.of_value("the globals", [*values.values()], lambda value: self._define(value, owners))
        return found.advice(str(exc)) if found is not None else ""

    def _version(self, group: tuple[str, ...], data: bytes) -> tuple[int, bytes]:
        return holding(self._lock, lambda: self._version_of(group, data))

    def _version_of(self, group: tuple[str, ...], data: bytes) -> tuple[int, bytes]:
        known = self._versions.get(group)
        if known is None or known[1] != data:
            self._counter += 1
            known = self._versions[group] = self._counter, data
        return known


def _encoded(versions: Versions) -> tuple[bytes, list[memoryview]]:
    """Encode definitions for a call. Large ones stand beside the pickle, so that slots can cache them."""
    large: list[memoryview] = []
    sent = []
    for group, (version, data) in versions.items():
        is_large = len(data) >= LEAST
        if is_large:
            large.append(memoryview(data))
        sent.append((group, version, pickle.PickleBuffer(data) if is_large else data))
    return pickle.dumps(sent, 5, buffer_callback=lambda buffer: None) if sent else b"", large


def _grouped(found: dict[str, _Definition]) -> list[tuple[str, ...]]:
    """Return the groups of names in an order in which they can be opened. Names that need each other form one group."""
    reach = {name: _reach(name, found) for name in found}
    mutual = {name: {other for other in reach[name] if name in reach[other]} for name in found}
    groups = {name: tuple(sorted({name} | mutual[name])) for name in found}
    order: list[tuple[str, ...]] = []
    begun: set[tuple[str, ...]] = set()

    def emit(name: str) -> None:
        """Append the group of this name to the order, after the groups that it needs."""
        group = groups[name]
        if group in begun:
            return
        begun.add(group)
        needed = sorted(other for member in group for other in found[member].hard if other in found)
        for other in needed:
            emit(other)
        for other in needed:  # opening the group may run this code
            for used in sorted(found[other].soft):
                if used in found:
                    emit(used)
        order.append(group)

    for name in found:
        emit(name)
    return order


def _reach(name: str, found: dict[str, _Definition]) -> set[str]:
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        new = (found[waiting.pop()].hard & found.keys()) - reached
        reached |= new
        waiting += new
    return reached


def _names_used(value: Any, namespace: dict[str, Any], bound: frozenset[str]) -> set[str]:
    """Return the globals used by the code of a function or class that the slot imports."""
    names: set[str] = set()
    for code in _codes(value, namespace, set()):
        names |= _precise(code, bound)
    return names


def _precise(code: CodeType, bound: frozenset[str]) -> AbstractSet[str]:
    every = all_names(code)
    if every <= bound or not every - bound - vars(builtins).keys():
        return every & bound
    return code_names(code)[0]


def _codes(value: Any, namespace: dict[str, Any], seen: set[int]) -> Iterable[CodeType]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, property):
        for part in (value.fget, value.fset, value.fdel):
            yield from _codes(part, namespace, seen)
    elif isinstance(value, FunctionType):
        if value.__globals__ is namespace:
            yield value.__code__
        for cell in value.__closure__ or ():
            yield from _codes(_content(cell), namespace, seen)
    elif isinstance(value, type):
        for part in list(vars(value).values()):
            yield from _codes(part, namespace, seen)
    else:  # static methods and class methods have __wrapped__, too
        yield from _codes(getattr(value, "__wrapped__", None), namespace, seen) if hasattr(value, "__wrapped__") else ()


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
