"""Functions that pickles refer to: the far side's unpickler calls them.

Their names and arguments are a wire format. The handshake ensures that both ends run the same version of this package.
"""

from __future__ import annotations

import sys
from _contextvars import ContextVar  # `contextvars` is this module, in one more file
from functools import lru_cache
from importlib import import_module
from marshal import loads
from types import CellType, CodeType, FunctionType, ModuleType

from dragonfly_executor.errors import MultiprocessingObjectError, SharedObjectError
from dragonfly_executor.serialization.code_table import LARGEST
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_UNFINISHED = "__dragonfly_unfinished__"
_LAYOUT = frozenset({"_fields_", "_anonymous_", "_pack_", "_align_", "_layout_"})
"""The attributes of a structure of ctypes that say how it lies in memory."""


def main_module() -> ModuleType:
    """Return the script's own module: the parent's ``__main__``, or a slot's module in its place.

    If the program removed ``__main__`` from ``sys.modules``, return an empty module. Then no name is found in it, and
    everything travels by value.
    """
    found = sys.modules.get("__main__")
    return found if found is not None and hasattr(found, "__dict__") else _empty_main()


@lru_cache(maxsize=1)
def _empty_main() -> ModuleType:
    return ModuleType("__main__")


def main_attribute(qualname: str) -> Any:
    """Return an object of ``__main__`` by its dotted name."""
    found: Any = main_module()
    if "." not in qualname:
        return getattr(found, qualname)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def shared_object(number: int) -> Any:
    """Stand in a pickle for a shared object. The unpickler of a call calls a function of the slot instead.

    Raises:
        SharedObjectError: another unpickler opens the pickle.
    """
    raise SharedObjectError(f"shared object {number} exists only in the slots that its calls run on")


OBJECT_SOURCE: ContextVar[Callable[[str, int, Any], Any] | None] = ContextVar("OBJECT_SOURCE", default=None)
"""Makes the stand-in of an object of multiprocessing, which the parent serves. A slot sets it."""


def context_variable(module_name: str, name: str) -> ContextVar[Any]:
    """Return a context variable by its name in a module."""
    return getattr(import_module(module_name), name)  # type: ignore[no-any-return]


def new_context_variable(name: str, default: tuple[Any, ...]) -> ContextVar[Any]:
    """Make a context variable. `default` has its default, or nothing."""
    return ContextVar(name, default=default[0]) if default else ContextVar(name)


@lru_cache(maxsize=256)
def home_of_variable(variable: ContextVar[Any]) -> tuple[str, str] | None:
    """Return the module in which a context variable is, and its name there; None if it is in no module."""
    for module_name, found in list(sys.modules.items()):
        for name, value in list(getattr(found, "__dict__", {}).items()):
            if value is variable:
                return module_name, name
    return None


def served_object(kind: str, number: int, detail: Any) -> Any:
    """Return the stand-in of an object of multiprocessing that the parent serves.

    Args:
        kind: the name of its class.
        number: its number in the parent.
        detail: values of built-in types, which depend on the kind.

    Raises:
        MultiprocessingObjectError: this is not a slot.
    """
    make = OBJECT_SOURCE.get()
    if make is None and kind == "BaseProxy":
        function, args = detail[1]  # a fake runner, in the process that has the manager's key
        return function(*args)
    if make is None:
        raise MultiprocessingObjectError(
            f"this {kind} of multiprocessing can be used only in slots of runners, and on the thread of a call"
        )
    return make(kind, number, detail)


def module(name: str, submodules: tuple[str, ...] = ()) -> ModuleType:
    """Import the submodules, then return the module."""
    for submodule in submodules:
        import_module(submodule)
    return import_module(name)


def empty_cell() -> CellType:
    """Return an empty closure cell, to be filled by `fill_function`."""
    return CellType()


@lru_cache(maxsize=512)
def _small_code(data: bytes) -> CodeType:
    return loads(data)  # type: ignore[no-any-return]  # noqa: S302  # from a peer that has proven itself, like pickles


def code(data: bytes) -> CodeType:
    """Return the code object that `marshal` wrote. Code that came before is not opened again: code never changes."""
    return _small_code(data) if len(data) <= LARGEST else loads(data)  # noqa: S302  # as above


def new_function(
    home: str | None, body: bytes | CodeType, name: str, cells: tuple[CellType, ...] | None
) -> FunctionType:
    """Make a function whose globals are a module's namespace.

    Args:
        home: the module's name; None for ``__main__``.
        body: its code, as `marshal` wrote it, or the code object itself.
        name: its ``__name__``.
        cells: its closure.
    """
    namespace = main_module().__dict__ if home is None else import_module(home).__dict__
    return FunctionType(code(body) if isinstance(body, bytes) else body, namespace, name, None, cells)


def fill_function(function: FunctionType, state: tuple[dict[str, Any], dict[str, Any], tuple[Any, ...], Any]) -> None:
    """Fill a function made by `new_function`. The function exists by now, so its contents may refer to it."""
    attributes, slots, contents, _ = state  # the last item is submodules: opening the pickle has imported them
    function.__dict__.update(attributes)
    for name, value in slots.items():
        setattr(function, name, value)
    for cell, content in zip(function.__closure__ or (), contents, strict=True):
        if content:
            cell.cell_contents = content[0]


def new_class(build: Callable[..., type], tracker_id: str, args: tuple[Any, ...]) -> type:
    """Return the class known under a tracker id, or make a new class without contents."""
    from cloudpickle import cloudpickle

    known: type | None = getattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", {}).get(tracker_id)
    if known is not None:
        return known
    made = build(*args)
    _plain_methods(made).__setattr__(made, _UNFINISHED, True)
    return made


def _plain_methods(made: type) -> Any:
    """Return the metaclass whose methods set attributes: that of ctypes, or `type`, whatever the user's own does."""
    return type(made) if type(made).__module__ == "_ctypes" else type


def update_class(made: type, state: tuple[Any, str]) -> None:
    """Fill a class that came with a call. The parent's definition is the newer one."""
    from cloudpickle import cloudpickle

    contents, qualname = state
    if _UNFINISHED in vars(made):
        _plain_methods(made).__delattr__(made, _UNFINISHED)
    elif "_fields_" in vars(made):
        # A structure of ctypes has its fields for good.
        contents = ({name: value for name, value in contents[0].items() if name not in _LAYOUT}, *contents[1:])
    cloudpickle._class_setstate(made, contents)  # noqa: SLF001
    made.__qualname__ = qualname


def keep_class(made: type, state: tuple[Any, str]) -> None:
    """Fill a class that came with a result, unless this side has the class: its own class is the real one."""
    if _UNFINISHED in vars(made):
        update_class(made, state)


def cached_function(function: Any, parameters: dict[str, Any]) -> Any:
    """Wrap a function in a fresh `functools.lru_cache`."""
    from functools import lru_cache

    return lru_cache(**parameters)(function)


def cached_attribute(function: Any, name: str | None) -> Any:
    """Make a `functools.cached_property` (before Python 3.12 it holds a lock, so it cannot be pickled)."""
    from functools import cached_property

    made = cached_property(function)
    if name is not None:
        made.__set_name__(object, name)
    return made


def view(buffer: Any, code: str, shape: tuple[int, ...]) -> memoryview:
    """Make a memoryview of a buffer that travelled beside the pickle or inside it."""
    whole = memoryview(buffer).cast("B")
    return whole if code == "B" and len(shape) == 1 else whole.cast(code, shape)  # type: ignore[call-overload]


def typing_name(module_name: str, kind: Callable[..., Any], *args: Any) -> Any:
    """Make a `typing.NewType` or similar, and correct its ``__module__``, which is this module at first."""
    made = kind(*args)
    made.__module__ = module_name
    return made


def builtin_base(kind: type[BaseException]) -> type[BaseException]:
    """Return the nearest builtin base class of an exception type."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def new_exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception whose own ``__init__`` does not accept its ``args``, without calling that ``__init__``."""
    base: Any = builtin_base(kind)
    made: BaseException = base.__new__(kind, *args)
    base.__init__(made, *args)
    return made


def fill_exception(made: BaseException, state: dict[str, Any]) -> None:
    """Set an exception's attributes. The exception exists by now, so its attributes may refer to it."""
    for name, value in state.items():
        # Bypasses the class's own __setattr__, because a frozen dataclass refuses.
        object.__setattr__(made, name, value)


class ModuleReference:
    """A stand-in for a module: opening its pickle imports the module."""

    __slots__ = ("_name", "_submodules")

    def __init__(self, name: str, submodules: tuple[str, ...]) -> None:
        self._name = name
        self._submodules = submodules

    def __reduce__(self) -> Any:
        return module, (self._name, self._submodules)
