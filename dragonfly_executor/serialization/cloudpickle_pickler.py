"""Pickles functions and classes by value. Importing this module imports cloudpickle, which takes 12 to 40 ms.

cloudpickle has no public API that selects the classes to pickle by value, or that rebuilds one. This module and
`rebuild` use four of its private names. Every release since 3.0 has them, and both ends run the same minor version.
"""

from __future__ import annotations

import copyreg
import functools
import sys
import typing
import weakref
from pickle import PickleBuffer
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from cloudpickle import Pickler, cloudpickle

from dragonfly_executor.serialization import rebuild
from dragonfly_executor.serialization.code_names import code_names, submodules
from dragonfly_executor.serialization.main_pickler import MAIN_NAMES, NameTracking, importable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CellType

    from dragonfly_executor.serialization.main_pickler import MainView


class _Cell:
    """A stand-in for a closure's cell, so that functions which share a cell share it on the far side too.

    The cell travels empty: its contents may refer to the function, which has to exist first.
    """

    __slots__ = ()

    def __reduce__(self) -> Any:
        return rebuild.empty_cell, ()


class ByValue(NameTracking):
    """A pickler mixin that sends functions and classes in full.

    All of them share the one ``__main__``, and a class that travels twice stays one class.
    """

    _cells: dict[int, _Cell]

    def track(self, main: MainView, owners: frozenset[str], returning: bool) -> None:
        """Set the parameters, and clear the recorded names."""
        super().track(main, owners, returning)
        self._cells = {}

    def reducer_override(self, found: Any) -> Any:
        """Reduce like `NameTracking`, and also reduce objects that plain pickle refuses although they can travel."""
        kind = type(found)
        if kind is ModuleType:
            return self._module(found)
        if issubclass(kind, type) and getattr(found, "__module__", None) == "builtins":
            return cloudpickle._class_reduce(found)  # noqa: SLF001  # NoneType and the like have no importable name
        reduced = super().reducer_override(found)
        if reduced is NotImplemented and kind in _REDUCERS:
            return _REDUCERS[kind](found)
        return reduced

    def by_value(self, found: Any) -> Any:
        """Return the reduction of a function or class in full."""
        kind = type(found)
        if kind is FunctionType:
            return self._function(found)
        if issubclass(kind, type):
            return self._class(found)
        # Any other object pickles as a name that cannot be found. cloudpickle can reduce type variables.
        reduce = _REDUCERS.get(kind) or Pickler.dispatch_table.get(kind)
        if reduce is not None:
            return reduce(found)
        if kind.__module__ in MAIN_NAMES:  # a singleton that is being defined: reduce it as if it had no __reduce__
            return copyreg.__newobj__, (kind,), object.__getstate__(found)  # type: ignore[attr-defined]
        return super().by_value(found)

    def function_without_module(self, function: FunctionType) -> Any:
        """Reduce a function whose globals are not a module's namespace."""
        raise NotImplementedError

    def _module(self, found: ModuleType) -> Any:
        if found is sys.modules.get("__main__"):
            return rebuild.main_module, ()
        if importable(found.__name__):
            return rebuild.module, (found.__name__,)
        contents = {name: value for name, value in vars(found).items() if name != "__builtins__"}
        return cloudpickle.dynamic_subimport, (found.__name__, contents)

    def _class(self, found: Any) -> Any:
        build, args, state, _, _, _ = cloudpickle._dynamic_class_reduce(found)  # noqa: SLF001
        if vars(found).get("__slots__") and isinstance(args[3], dict):
            args[3]["__slots__"] = vars(found)["__slots__"]  # has no effect if set after the class is made
        fill = rebuild.keep_class if self.returning else rebuild.update_class
        tracker_id = cloudpickle._get_or_create_tracker_id(found)  # noqa: SLF001
        return rebuild.new_class, (build, tracker_id, args), (state, found.__qualname__), None, None, fill

    def _function(self, function: FunctionType) -> Any:
        self.codes.append((function.__code__, function.__globals__.get("__package__") or ""))
        home, known = self._home(function)
        if not known:
            return self.function_without_module(function)
        names, attributes = code_names(function.__code__)
        if home is None:
            self.soft |= names
            self.attributes |= attributes
        closure = function.__closure__
        cells = None if closure is None else tuple(map(self._cell, closure))
        contents = tuple(map(_contents, closure or ()))
        held = [content[0] for content in contents if content and type(content[0]) is ModuleType]
        reached = [sys.modules[name] for module in held for name in submodules(module, attributes)]
        state = (dict(function.__dict__), _function_slots(function), contents, reached)
        args = (home, function.__code__, function.__name__, cells)
        return rebuild.new_function, args, state, None, None, rebuild.fill_function

    def _home(self, function: FunctionType) -> tuple[str | None, bool]:
        """Return the module whose namespace a function lives in, and whether there is one. None is ``__main__``."""
        if function.__globals__ is self.main.namespace:
            return None, True
        name = function.__globals__.get("__name__")
        if isinstance(name, str) and importable(name) and sys.modules[name].__dict__ is function.__globals__:
            return name, True
        return None, False

    def _cell(self, cell: CellType) -> _Cell:
        return self._cells.setdefault(id(cell), _Cell())


class ValuePickler(ByValue, Pickler):  # type: ignore[misc]
    """The cloudpickle pickler, except for the objects that `ByValue` and `NameTracking` reduce."""

    def function_without_module(self, function: FunctionType) -> Any:
        """Reduce the function like cloudpickle: a copy of the globals that it uses travels with it."""
        return self._dynamic_function_reduce(function)


def _contents(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # no value has been assigned to the variable yet
        return ()


def _function_slots(function: FunctionType) -> dict[str, Any]:
    names = ["__module__", "__doc__", "__defaults__", "__kwdefaults__", "__annotations__", "__type_params__"]
    slots = {name: getattr(function, name, None) for name in names}
    filled = {name: value for name, value in slots.items() if value}
    if function.__qualname__ != function.__code__.co_qualname:  # functools.wraps
        filled["__qualname__"] = function.__qualname__
    return filled


def _cached_function(found: Any) -> Any:
    return rebuild.cached_function, (found.__wrapped__, found.cache_parameters())


def _cached_attribute(found: Any) -> Any:
    return rebuild.cached_attribute, (found.func, found.attrname)


def _new_type(found: Any) -> Any:
    return rebuild.typing_name, (found.__module__, typing.NewType, found.__name__, found.__supertype__)


def _type_parameters(found: Any) -> Any:
    return rebuild.typing_name, (found.__module__, type(found), found.__name__)


def _view(found: memoryview) -> Any:
    if not found.c_contiguous:
        return bytes, (found.tobytes(),)
    return rebuild.view, (PickleBuffer(found), found.format, found.shape)


def _weak_mapping(found: Any) -> Any:
    return type(found), (dict(found),)


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    type(functools.lru_cache(_contents)): _cached_function,
    memoryview: _view,
    functools.cached_property: _cached_attribute,
    typing.NewType: _new_type,
    typing.ParamSpec: _type_parameters,
    typing.TypeVarTuple: _type_parameters,
    weakref.WeakKeyDictionary: _weak_mapping,
    weakref.WeakValueDictionary: _weak_mapping,
}
