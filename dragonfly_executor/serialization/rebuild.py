"""What pickles refer to: each function here is called by the far side's unpickler.

Names and arguments are a format: the two ends run the same version of this package (the handshake sees to it).
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from types import CellType, CodeType, FunctionType, ModuleType

# Type checkers take this name for true. A runner imports this module, and has no other use for typing, which is slow.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_UNFINISHED = "__dragonfly_unfinished__"


def main_module() -> ModuleType:
    """The script's own module: the parent's ``__main__``, or what stands for it in a slot.

    A program may have taken its ``__main__`` out of ``sys.modules``. Then this is an empty one: nothing is found in it
    by name, and all travels by value.
    """
    found = sys.modules.get("__main__")
    return found if found is not None and hasattr(found, "__dict__") else _empty_main()


@lru_cache(maxsize=1)
def _empty_main() -> ModuleType:
    return ModuleType("__main__")


def main_attribute(qualname: str) -> Any:
    """An object of ``__main__`` by its name."""
    found: Any = main_module()
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def module(name: str, submodules: tuple[str, ...] = ()) -> ModuleType:
    """A module by its name, once the submodules that go with it are imported too."""
    for submodule in submodules:
        import_module(submodule)
    return import_module(name)


def empty_cell() -> CellType:
    """A closure's cell, to be filled by `fill_function`."""
    return CellType()


def new_function(home: str | None, code: CodeType, name: str, cells: tuple[CellType, ...] | None) -> FunctionType:
    """A function that lives in a module's own namespace.

    Args:
        home: the module; None is ``__main__``.
        code: its code.
        name: its ``__name__``.
        cells: its closure.
    """
    namespace = main_module().__dict__ if home is None else import_module(home).__dict__
    return FunctionType(code, namespace, name, None, cells)


def fill_function(function: FunctionType, state: tuple[dict[str, Any], dict[str, Any], tuple[Any, ...], Any]) -> None:
    """The second half of `new_function`, once the function exists and may refer to itself."""
    attributes, slots, contents, _ = state  # the last are submodules: opening the pickle has imported them
    function.__dict__.update(attributes)
    for name, value in slots.items():
        setattr(function, name, value)
    for cell, content in zip(function.__closure__ or (), contents, strict=True):
        if content:
            cell.cell_contents = content[0]


def new_class(build: Callable[..., type], tracker_id: str, args: tuple[Any, ...]) -> type:
    """The class known under a tracker id, or a new one that has no contents yet."""
    from cloudpickle import cloudpickle

    known: type | None = getattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", {}).get(tracker_id)
    if known is not None:
        return known
    made = build(*args)
    type.__setattr__(made, _UNFINISHED, True)
    return made


def update_class(made: type, state: tuple[Any, str]) -> None:
    """Fill a class that came with a call: the parent's word is the newer one."""
    from cloudpickle import cloudpickle

    contents, qualname = state
    if _UNFINISHED in vars(made):
        type.__delattr__(made, _UNFINISHED)
    cloudpickle._class_setstate(made, contents)  # noqa: SLF001
    made.__qualname__ = qualname


def keep_class(made: type, state: tuple[Any, str]) -> None:
    """Fill a class that came with a result, unless this side has it already: its own is the real one."""
    if _UNFINISHED in vars(made):
        update_class(made, state)


def cached_function(function: Any, parameters: dict[str, Any]) -> Any:
    """A function behind a fresh `functools.lru_cache`."""
    from functools import lru_cache

    return lru_cache(**parameters)(function)


def cached_attribute(function: Any, name: str | None) -> Any:
    """A `functools.cached_property` (before Python 3.12 it holds a lock)."""
    from functools import cached_property

    made = cached_property(function)
    if name is not None:
        made.__set_name__(object, name)
    return made


def view(buffer: Any, code: str, shape: tuple[int, ...]) -> memoryview:
    """A memoryview of a buffer that travelled beside the pickle, or in it."""
    whole = memoryview(buffer).cast("B")
    return whole if code == "B" and len(shape) == 1 else whole.cast(code, shape)  # type: ignore[call-overload]


def typing_name(module_name: str, kind: Callable[..., Any], *args: Any) -> Any:
    """A `typing.NewType` or its like; it would take this module for its home."""
    made = kind(*args)
    made.__module__ = module_name
    return made


def builtin_base(kind: type[BaseException]) -> type[BaseException]:
    """Return the nearest of an exception type's bases that the interpreter brings along."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def new_exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception without its own ``__init__``, which does not take its ``args``."""
    base: Any = builtin_base(kind)
    made: BaseException = base.__new__(kind, *args)
    base.__init__(made, *args)
    return made


def fill_exception(made: BaseException, state: dict[str, Any]) -> None:
    """Set an exception's attributes, once it exists and they may refer to it."""
    for name, value in state.items():
        # Past the class's own __setattr__: frozen dataclasses refuse.
        object.__setattr__(made, name, value)


class Importing:
    """Pickles as a module: what opens the pickle imports it."""

    __slots__ = ("_name", "_submodules")

    def __init__(self, name: str, submodules: tuple[str, ...]) -> None:
        self._name = name
        self._submodules = submodules

    def __reduce__(self) -> Any:
        return module, (self._name, self._submodules)
