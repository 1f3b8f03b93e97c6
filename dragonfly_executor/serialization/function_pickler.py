"""Pickles functions by value, without cloudpickle: the code by `marshal`, and the other parts by the pickler.

This covers lambdas, closures and nested functions whose globals are a module's namespace, and modules that they hold.
Other functions, classes and odd objects need cloudpickle (see `cloudpickle_pickler`).
"""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType

from dragonfly_executor.serialization import rebuild
from dragonfly_executor.serialization.code_names import submodules
from dragonfly_executor.serialization.main_pickler import NameTracking, importable
from dragonfly_executor.serialization.payload_parts import stand_in
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.plain_pickle import Pickler

if TYPE_CHECKING:
    from types import CellType
    from typing import Any

    from dragonfly_executor.serialization.code_table import CodeTable
    from dragonfly_executor.serialization.main_pickler import MainView

_SLOTS = ("__defaults__", "__kwdefaults__", "__annotations__", "__type_params__")


class _Cell:
    """A stand-in for a closure's cell, so that functions which share a cell share it on the far side too.

    The cell travels empty: its contents may refer to the function, which has to exist first.
    """

    __slots__ = ()

    def __reduce__(self) -> Any:
        return rebuild.empty_cell, ()


class FunctionsByValue(NameTracking):
    """A pickler mixin that sends functions in full, and modules by name. All of them share the one ``__main__``."""

    _cells: dict[int, _Cell]

    def track(self, main: MainView, owners: frozenset[str], returning: bool, table: CodeTable) -> None:
        """Set the parameters, and clear the recorded names."""
        super().track(main, owners, returning, table)
        self._cells = {}

    def reducer_override(self, found: Any) -> Any:
        """Reduce like `NameTracking`, and also reduce modules."""
        if type(found) is ModuleType:
            return self.module(found)
        return super().reducer_override(found)

    def by_value(self, found: Any) -> Any:
        """Return the reduction of a function in full."""
        if type(found) is FunctionType:
            return self._function(found)
        return super().by_value(found)

    def module(self, found: ModuleType) -> Any:
        """Reduce a module to its name."""
        if found is sys.modules.get("__main__"):
            return rebuild.main_module, ()
        if importable(found.__name__):
            return rebuild.module, (found.__name__,)
        return self.by_value(found)

    def function_without_module(self, function: FunctionType) -> Any:
        """Reduce a function whose globals are not a module's namespace."""
        return super().by_value(function)

    def _function(self, function: FunctionType) -> Any:
        self.codes.append((function.__code__, function.__globals__.get("__package__") or ""))
        home, known = home_of(function, self.main)
        if not known:
            return self.function_without_module(function)
        written = self.table[function.__code__]
        if home is None:
            self.soft |= written.names
            self.attributes |= written.attributes
        closure = function.__closure__
        cells = None if closure is None else tuple(map(self._cell, closure))
        contents = tuple(tuple(map(stand_in, contents_of(cell))) for cell in closure or ())
        held = [content[0] for content in contents if content and type(content[0]) is ModuleType]
        reached = [sys.modules[name] for module in held for name in submodules(module, written.attributes)]
        state = (dict(function.__dict__), slots_of(function), contents, reached)
        args = (home, function.__code__ if written.data is None else written.data, function.__name__, cells)
        return rebuild.new_function, args, state, None, None, rebuild.fill_function

    def _cell(self, cell: CellType) -> _Cell:
        return self._cells.setdefault(id(cell), _Cell())


class FunctionPickler(FunctionsByValue, Pickler):
    """A pickler that pickles functions by value, and all other objects by reference only."""


def home_of(function: FunctionType, main: MainView) -> tuple[str | None, bool]:
    """Return the module whose namespace a function lives in, and whether there is one. None is ``__main__``."""
    if function.__globals__ is main.namespace:
        return None, True
    name = function.__globals__.get("__name__")
    if isinstance(name, str) and importable(name) and sys.modules[name].__dict__ is function.__globals__:
        return name, True
    return None, False


def contents_of(cell: CellType) -> tuple[Any, ...]:
    """Return what a cell holds, as a tuple of one item; an empty tuple if no value has been assigned yet."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def slots_of(function: FunctionType) -> dict[str, Any]:
    """Return the attributes of a function that do not follow from its code."""
    filled: dict[str, Any] = {"__module__": function.__module__}
    for name in _SLOTS:
        value = getattr(function, name, None)
        if value:
            filled[name] = value
    if "__defaults__" in filled:
        filled["__defaults__"] = tuple(map(stand_in, filled["__defaults__"]))
    if "__kwdefaults__" in filled:
        filled["__kwdefaults__"] = {name: stand_in(value) for name, value in filled["__kwdefaults__"].items()}
    code = function.__code__
    text = function.__doc__
    if text and not (code.co_consts and code.co_consts[0] is text):
        filled["__doc__"] = text
    if function.__qualname__ != code.co_qualname:  # functools.wraps
        filled["__qualname__"] = function.__qualname__
    return filled
