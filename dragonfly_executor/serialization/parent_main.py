"""Finds the definitions that a call needs from the parent's ``__main__``, and pickles them."""

from __future__ import annotations

import sys
from types import ModuleType

from dragonfly_executor import errors
from dragonfly_executor.serialization.code_names import names_used, submodules
from dragonfly_executor.serialization.definitions import Definition, Plan, encoded, grouped
from dragonfly_executor.serialization.global_fingerprint import fingerprint
from dragonfly_executor.serialization.layout import NEEDS_MAIN, is_joined, join
from dragonfly_executor.serialization.main_pickler import MainView, importable, name_in
from dragonfly_executor.serialization.rebuild import ModuleReference, main_module
from dragonfly_executor.serialization.script import Bindings, bindings
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.condition import RLock, holding
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from dragonfly_executor.serialization.definitions import Versions
    from dragonfly_executor.serialization.layout import Buffer
    from dragonfly_executor.serialization.shared_object import SharedContent

    Names = tuple[set[str], set[str], set[str], dict[int, SharedContent]]
    # Pickles an object in which the parts with these names are embedded. Returns the pieces of the pickle, the hard
    # names, the soft names, the attribute names and the shared objects. Pieces may be views of the object.
    Define = Callable[[Any, frozenset[str]], tuple[list[Buffer], *Names]]

# Names that every module has of its own. They never travel.
MODULE_OWN = frozenset({
    "__annotations__", "__builtins__", "__cached__", "__doc__", "__file__",
    "__loader__", "__name__", "__package__", "__path__", "__spec__",
})  # fmt: skip
_LATER = b"later"  # marks a module's definition, which is written once all code has been examined
_PLANS = 512  # sets of names remembered at most


class ParentMain(MainView):
    """The parent's ``__main__``: finds the globals that must travel with a call, by following names through code.

    Thread-safe: pickling runs user code, so it holds no lock. Cached objects are replaced, never changed.

    Attributes:
        needs_script: True if a call that was encoded so far needs the script to be imported.
        version_step: difference between the versions of definitions.
    """

    def __init__(self, define: Define, *, script_travels: bool = True) -> None:
        self.needs_script = False
        self._define = define
        self._script_travels = script_travels
        # An RLock taken by `holding`, because Ctrl-C may interrupt a caller.
        self._lock = RLock()
        self.version_step: float = 1
        self._counter: float = 0
        self._versions: Versions = {}
        self._known: dict[str, Definition] = {}
        self._plans: dict[frozenset[str], Plan] = {}
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

    def needed(
        self, names: frozenset[str], flags: int
    ) -> tuple[int, bytes, list[memoryview], dict[int, SharedContent]]:
        """Return the flags of a call that uses these top-level names, and what travels for them; see `definitions`."""
        if not names:
            return flags, b"", [], {}
        if self.script is not None:
            self.needs_script = True
            flags |= NEEDS_MAIN
        return flags, *self.definitions(names)

    def definitions(self, roots: frozenset[str]) -> tuple[bytes, list[memoryview], dict[int, SharedContent]]:
        """Return the pickled definitions that a call needs, their out-of-band buffers, and their shared objects.

        Args:
            roots: the top-level names that the call refers to.

        Returns:
            A pickled list of (names, version, bytes), or b"" if there are none; its buffers; the shared objects by
            number.

        Raises:
            CallSerializationError: a global that the code uses cannot be pickled.
        """
        _ = self.script  # if another module has become __main__, this clears the caches
        plan = self._plans.get(roots)
        if plan is not None and plan.holds(self.namespace, self._versions):
            return *plan.sent, {}
        found, absent = self._collect(roots)
        travelling = {name: entry for name, entry in found.items() if entry.data is not None}
        versions: Versions = {}
        for group in grouped(travelling):
            data = found[group[0]].data if len(group) == 1 else self._bundle(group, found)
            versions[group] = self._version(group, data or b"")
        plan = Plan(travelling, absent, versions, encoded(versions))
        if all(entry.lasting for entry in travelling.values()):
            if len(self._plans) >= _PLANS:
                self._plans = {}
            self._plans[roots] = plan
        shared: dict[int, SharedContent] = {}
        for entry in travelling.values():
            shared |= entry.shared
        return *plan.sent, shared

    def _collect(self, roots: Iterable[str]) -> tuple[dict[str, Definition], set[str]]:
        found: dict[str, Definition] = {}
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

    def _read(self, name: str) -> Definition:
        value = self.namespace[name]
        entry = self._known.get(name)
        if entry is not None and entry.unchanged(value):
            return entry
        script = self.script
        if script is not None and name in script.imported:
            entry = Definition(value, None, set(), names_used(value, self.namespace, script.imported))
        elif type(value) is ModuleType and importable(value.__name__):
            return Definition(value, _LATER, set(), set())
        else:
            entry = self._defined(name, value, script)
        if entry.lasting:
            self._known[name] = entry
        return entry

    def _defined(self, name: str, value: Any, script: Bindings | None) -> Definition:
        parts = fingerprint(value)
        try:
            data, hard, soft, attributes, shared = self._pickled({name: value}, name)
        except errors.SharedObjectError:
            raise
        except errors.CallSerializationError:
            if script is None or name in script.guarded:
                raise
            # Code that runs on import may bind this name by a global statement or through globals(). So rely on the
            # import.
            return Definition(value, None, set(), set())
        holding(self._lock, lambda: self._learn(attributes))
        entry = Definition(value, data, hard, soft)
        entry.parts = parts
        entry.shared = shared
        return entry

    def _learn(self, attributes: set[str]) -> None:
        self._attributes |= attributes

    def _module(self, name: str, value: ModuleType) -> Definition:
        stand_in = ModuleReference(value.__name__, submodules(value, self._attributes))
        entry = Definition(value, pickle.dumps({name: stand_in}, 5), set(), set())
        entry.modules = len(sys.modules)
        return entry

    def _bundle(self, group: tuple[str, ...], found: dict[str, Definition]) -> bytes:
        """Pickle definitions that need each other before either can be opened, as one pickle."""
        return self._pickled({name: found[name].value for name in group}, " and ".join(group))[0]

    def _pickled(self, values: dict[str, Any], shown: str) -> tuple[bytes, *Names]:
        try:
            pieces, hard, soft, attributes, shared = self._define(values, frozenset(values))
            # A large global is pickled for each call, but copied only if it has changed.
            version = self._versions.get(tuple(values))
            data = version[1] if version is not None and is_joined(version[1], pieces) else join(pieces)
            return data, hard, soft, attributes, shared
        except (KeyboardInterrupt, errors.SharedObjectError):
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

    def _version(self, group: tuple[str, ...], data: bytes) -> tuple[float, bytes]:
        return holding(self._lock, lambda: self._version_of(group, data))

    def _version_of(self, group: tuple[str, ...], data: bytes) -> tuple[float, bytes]:
        known = self._versions.get(group)
        if known is None or known[1] != data:
            self._counter += self.version_step
            known = self._versions[group] = self._counter, data
        return known
