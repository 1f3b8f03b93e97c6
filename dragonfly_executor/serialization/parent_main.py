"""The parent's ``__main__``: what calls refer to in it, and the definitions that travel with them."""

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
from dragonfly_executor.serialization.rebuild import Importing, main_module
from dragonfly_executor.serialization.script import Bindings, bindings
from dragonfly_executor.util.condition import RLock, holding

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Set as AbstractSet
    from typing import Any

    # For each definition, by its names: a number that grows when the bytes change, and the bytes.
    Versions = dict[tuple[str, ...], tuple[int, bytes]]
    # Pickles an object whose parts with these names are embedded: bytes, hard names, soft names, attribute names.
    Define = Callable[[Any, frozenset[str]], tuple[bytes, set[str], set[str], set[str]]]

# A module's own names: every module has its own, they never travel.
MODULE_OWN = frozenset({
    "__annotations__", "__builtins__", "__cached__", "__doc__", "__file__",
    "__loader__", "__name__", "__package__", "__path__", "__spec__",
})  # fmt: skip
_LATER = b"later"  # stands in for a module's definition until all code has been looked at
_PLANS = 512  # sets of names remembered at most


class _Definition:
    """A global of ``__main__`` as it last was."""

    __slots__ = ("data", "hard", "modules", "parts", "soft", "value")

    def __init__(self, value: Any, data: bytes | None, hard: set[str], soft: set[str]) -> None:
        self.value = value
        self.data = data  # None: the slot's import binds it
        self.hard = hard  # names that have to exist before this is opened
        self.soft = soft  # names that its code uses
        self.parts: list[Any] | None = None  # fingerprint; None: it may change in itself
        self.modules = 0  # for a module: how many were imported when its submodules were looked up

    @property
    def lasting(self) -> bool:
        """Whether it is worth remembering. What may change in itself is looked at anew each time, and not kept."""
        return self.data is None or self.modules > 0 or self.parts is not None

    def unchanged(self, value: Any) -> bool:
        """Whether the global is still what this was made of."""
        if value is not self.value:
            return False
        if self.modules:
            return self.modules == len(sys.modules)
        return self.data is None or (self.parts is not None and same(self.parts, fingerprint(value)))


class _Plan:
    """What one set of names came to, for as long as nothing of it changes."""

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
        """Whether it still says what has to travel."""
        if not namespace.keys().isdisjoint(self.absent):
            return False
        # A global that changed and changed back has a newer version than the one here, and slots may have met it.
        if any(current[group] is not version for group, version in self.versions.items()):
            return False
        return all(entry.unchanged(namespace.get(name)) for name, entry in self.entries.items())


class ParentMain(MainView):
    """Follows names from what a call refers to, through code, to every global that has to travel.

    Thread-safe: pickling, which runs user code, holds no lock. What is remembered is replaced, never changed.
    """

    def __init__(self, define: Define, *, script_travels: bool = True) -> None:
        self._define = define
        self._script_travels = script_travels
        # Callers may be interrupted.
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
        """The dictionary of ``__main__``."""
        return main_module().__dict__

    @property
    def script(self) -> Bindings | None:
        """What a slot gets by importing the script; None where nothing is imported."""
        main = main_module()
        known, script = self._script
        if known is not main:
            # Slots import the script that was there at first, and no other one.
            script = bindings(main) if self._script_travels and main is self._first else None
            self._script = main, script
            self._known, self._plans = {}, {}
        return script

    def name_of(self, found: Any) -> str | None:
        """The name of an object in ``__main__``, or None."""
        return name_in(self.namespace, found)

    def definitions(self, roots: frozenset[str]) -> tuple[bytes, list[memoryview]]:
        """The definitions that a call needs, pickled: a list of (names, version, bytes), or nothing; and its buffers.

        Raises:
            CallSerializationError: a global that the code uses cannot be pickled.
        """
        _ = self.script  # another module may have become __main__: then all that is remembered is void
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
        todo = list(roots)
        while todo:
            name = todo.pop()
            if name in found or name in MODULE_OWN:
                continue
            if name not in self.namespace:
                absent.add(name)
                continue
            entry = found[name] = self._read(name)
            if entry.data == _LATER:
                modules.append(name)
            todo += entry.hard
            todo += entry.soft
        for name in modules:  # last: which submodules they need is known from the code that uses them
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
            # Code that runs on import may bind it, by a global statement or through globals(): leave it to that.
            return _Definition(value, None, set(), set())
        holding(self._lock, lambda: self._learn(attributes))
        entry = _Definition(value, data, hard, soft)
        entry.parts = parts
        return entry

    def _learn(self, attributes: set[str]) -> None:
        self._attributes |= attributes

    def _module(self, name: str, value: ModuleType) -> _Definition:
        stand_in = Importing(value.__name__, submodules(value, self._attributes))
        entry = _Definition(value, pickle.dumps({name: stand_in}, 5), set(), set())
        entry.modules = len(sys.modules)
        return entry

    def _bundle(self, group: tuple[str, ...], found: dict[str, _Definition]) -> bytes:
        """Definitions that need each other before either can be opened: one pickle."""
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
    """The definitions as they travel. What is large stands beside the pickle, so that slots may keep it."""
    large: list[memoryview] = []
    sent = []
    for group, (version, data) in versions.items():
        is_large = len(data) >= LEAST
        if is_large:
            large.append(memoryview(data))
        sent.append((group, version, pickle.PickleBuffer(data) if is_large else data))
    return pickle.dumps(sent, 5, buffer_callback=lambda buffer: None) if sent else b"", large


def _grouped(found: dict[str, _Definition]) -> list[tuple[str, ...]]:
    """Definitions in an order in which they can be opened; what needs each other stands in one group."""
    reach = {name: _reach(name, found) for name in found}
    mutual = {name: {other for other in reach[name] if name in reach[other]} for name in found}
    groups = {name: tuple(sorted({name} | mutual[name])) for name in found}
    order: list[tuple[str, ...]] = []
    begun: set[tuple[str, ...]] = set()

    def emit(name: str) -> None:
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
    todo = [name]
    while todo:
        new = (found[todo.pop()].hard & found.keys()) - reached
        reached |= new
        todo += new
    return reached


def _names_used(value: Any, namespace: dict[str, Any], bound: frozenset[str]) -> set[str]:
    """The globals used by the code of a function or class that the slot imports."""
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
    else:  # static methods and class methods, too, have what they wrap
        yield from _codes(getattr(value, "__wrapped__", None), namespace, seen) if hasattr(value, "__wrapped__") else ()


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
