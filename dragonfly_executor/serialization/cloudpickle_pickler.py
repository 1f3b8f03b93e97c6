"""Pickles functions and classes by value. Importing this module imports cloudpickle, which takes 12 to 40 ms.

cloudpickle has no public API that selects the classes to pickle by value, or that rebuilds one. This module and
`rebuild` use four of its private names. Every release since 3.0 has them, and both ends run the same minor version.
"""

from __future__ import annotations

import copyreg
import functools
import typing
import weakref
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from cloudpickle import Pickler, cloudpickle

from dragonfly_executor.serialization import rebuild
from dragonfly_executor.serialization.function_pickler import FunctionsByValue
from dragonfly_executor.serialization.main_pickler import MAIN_NAMES
from dragonfly_executor.util.plain_pickle import PickleBuffer

if TYPE_CHECKING:
    from collections.abc import Callable


class ByValue(FunctionsByValue):
    """A pickler mixin that sends functions and classes in full. A class that travels twice stays one class."""

    def reducer_override(self, found: Any) -> Any:
        """Reduce like `FunctionsByValue`, and also what plain pickle refuses although it can travel."""
        kind = type(found)
        if kind is CodeType:
            data = self.table[found].data
            return NotImplemented if data is None else (rebuild.code, (data,))
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
            return super().by_value(found)
        if issubclass(kind, type):
            return self._class(found)
        if kind is ModuleType:
            contents = {name: value for name, value in vars(found).items() if name != "__builtins__"}
            return cloudpickle.dynamic_subimport, (found.__name__, contents)
        # Any other object pickles as a name that cannot be found. cloudpickle can reduce type variables.
        reduce = _REDUCERS.get(kind) or Pickler.dispatch_table.get(kind)
        if reduce is not None:
            return reduce(found)
        if kind.__module__ in MAIN_NAMES:  # a singleton that is being defined: reduce it as if it had no __reduce__
            return copyreg.__newobj__, (kind,), object.__getstate__(found)  # type: ignore[attr-defined]
        return super().by_value(found)

    def _class(self, found: Any) -> Any:
        build, args, state, _, _, _ = cloudpickle._dynamic_class_reduce(found)  # noqa: SLF001
        if vars(found).get("__slots__") and isinstance(args[3], dict):
            args[3]["__slots__"] = vars(found)["__slots__"]  # has no effect if set after the class is made
        if type(found).__module__ == "_ctypes":
            # Assigning `_fields_` makes these descriptors, and must come last. The metaclass has no importable name. It
            # follows from the bases.
            contents = {name: value for name, value in state[0].items() if type(value).__name__ != "CField"}
            fields = {"_fields_": contents.pop("_fields_")} if "_fields_" in contents else {}
            args, state = (type, *args[1:]), (contents | fields, *state[1:])
        fill = rebuild.keep_class if self.returning else rebuild.update_class
        tracker_id = cloudpickle._get_or_create_tracker_id(found)  # noqa: SLF001
        return rebuild.new_class, (build, tracker_id, args), (state, found.__qualname__), None, None, fill


class ValuePickler(ByValue, Pickler):  # type: ignore[misc]
    """The cloudpickle pickler, except for the objects that `ByValue` and `NameTracking` reduce."""

    def function_without_module(self, function: FunctionType) -> Any:
        """Reduce the function like cloudpickle: a copy of the globals that it uses travels with it."""
        return self._dynamic_function_reduce(function)


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
    type(functools.lru_cache(_view)): _cached_function,
    memoryview: _view,
    functools.cached_property: _cached_attribute,
    typing.NewType: _new_type,
    typing.ParamSpec: _type_parameters,
    typing.TypeVarTuple: _type_parameters,
    weakref.WeakKeyDictionary: _weak_mapping,
    weakref.WeakValueDictionary: _weak_mapping,
}
