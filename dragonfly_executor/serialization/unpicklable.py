"""Finds the part of a call or result that cannot be pickled, and gives advice. Loaded only after a failure.

Parts are pickled by themselves, and a part that fails is searched further. So a part that its owner leaves out of its
pickle is never blamed.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from types import CoroutineType, FunctionType, GeneratorType, MethodType

from dragonfly_executor.serialization.code_names import all_names
from dragonfly_executor.serialization.map_chunk import item, run_chunk, run_items, run_stream
from dragonfly_executor.serialization.placed_run import call_method, run_worker
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    TryPickle = Callable[[Any], object]

FUNCTION = "the function"

_DEPTH = 8
_KEY = 40  # characters of a key that are shown

_PLACE = "make it in the call"
_UNKNOWN = (f"{_PLACE}, or pass the values that it is made from", "return the parts of it that can be pickled")
_LOCK = (f"{_PLACE}, or take one from multiprocessing.Manager()", "it works in one process only")
_FILE = ("pass its path, and open it in the call", "return its path, or its contents")
_SOCKET = (
    "pass the address, and connect in the call",
    "it is open in the runner only: return the data that was received",
)
_POOL = (f"{_PLACE}, or submit from here", "it belongs to the runner: return the results of its calls")
_AWAIT = ("await it here, and pass its value", "run it in the call, with asyncio.run(), and return its value")
_FUTURE = ("pass its value, .result(), or submit the call once it is done", "return its value, .result()")
_TEXT = ("pass it as text, traceback.format_exc()", "return it as text, traceback.format_exc()")
_POINTER = ("pass what it points to, or its value", "return what it points to, or its value")
_VIEW = ("pass list(...) of it", "return list(...) of it")

_ADVICE: dict[str, tuple[str, str]] = {
    "concurrent.futures._base.Future": _FUTURE,
    "_asyncio.Future": _AWAIT,
    "_asyncio.Task": _AWAIT,
    "asyncio.futures.Future": _AWAIT,
    "builtins.coroutine": _AWAIT,
    "builtins.generator": _VIEW,
    "builtins.async_generator": ("collect it here, and pass a list", "collect it in the call, and return a list"),
    "builtins.dict_keys": _VIEW,
    "builtins.dict_values": _VIEW,
    "builtins.dict_items": _VIEW,
    "_thread.lock": _LOCK,
    "_thread.RLock": _LOCK,
    "_thread._local": _LOCK,
    "threading.Condition": _LOCK,
    "threading.Event": _LOCK,
    "threading.Semaphore": _LOCK,
    "threading.Barrier": _LOCK,
    "threading.Thread": (_PLACE, "it runs in the runner only"),
    "queue.Queue": _LOCK,
    "_queue.SimpleQueue": _LOCK,
    "asyncio.mixins._LoopBoundMixin": (_PLACE, "it works in one event loop only"),
    "asyncio.events.AbstractEventLoop": (_PLACE, "it runs in the runner only"),
    "multiprocessing.synchronize.SemLock": _LOCK,
    "multiprocessing.synchronize.Condition": _LOCK,
    "multiprocessing.synchronize.Event": _LOCK,
    "multiprocessing.queues.Queue": _LOCK,
    "multiprocessing.queues.SimpleQueue": _LOCK,
    "multiprocessing.pool.Pool": _POOL,
    "multiprocessing.process.BaseProcess": (_PLACE, "return its exitcode"),
    "multiprocessing.process.AuthenticationString": ("pass bytes(...) of it", "return bytes(...) of it"),
    "multiprocessing.connection.Listener": ("pass its address, and connect in the call", "return what was received"),
    "ctypes.CDLL": ("load the library in the call", "it is loaded in the runner only"),
    "_ctypes.CFuncPtr": ("load the library in the call", "it is loaded in the runner only"),
    "_ctypes._Pointer": _POINTER,
    "ctypes.c_void_p": _POINTER,
    "ctypes.c_char_p": _POINTER,
    "ctypes.c_wchar_p": _POINTER,
    "dragonfly_executor.api.executor.PoolExecutor": ("", ""),  # its own error gives the advice
    "dragonfly_executor.api.pool.Pool": ("", ""),
    "concurrent.futures._base.Executor": _POOL,
    "subprocess.Popen": (_PLACE, "return its output, or its returncode"),
    "_io._IOBase": _FILE,
    "tempfile._TemporaryFileWrapper": _FILE,
    "_socket.socket": _SOCKET,
    "ssl.SSLContext": (_PLACE, "it works in one process only"),
    "_ssl._SSLContext": (_PLACE, "it works in one process only"),
    "sqlite3.Connection": ("pass the path, and connect in the call", "return the rows"),
    "sqlite3.Cursor": ("pass its rows, .fetchall()", "return its rows, .fetchall()"),
    "mmap.mmap": _FILE,
    "re.Match": ("pass .group(), or other values of it", "return .group(), or other values of it"),
    "posix.DirEntry": ("pass its .path", "return its .path"),
    "builtins.traceback": _TEXT,
    "builtins.frame": _TEXT,
    "weakref.ReferenceType": ("pass the object itself", "return the object itself"),
}  # fmt: skip
"""Advice for an argument and for a result, by the names of the types that users try to send."""


class UnpicklablePart:
    """A part of a call or a result that cannot be pickled.

    Attributes:
        root: a name for the value that is sent, for example "argument 1".
        steps: the way from there to the part: items, attributes, variables.
        value: the part.
        known: the advice for an argument and for a result of its type; None if there is none.
    """

    def __init__(self, root: str, steps: tuple[str, ...], value: Any) -> None:
        self.root = root
        self.steps = steps
        self.value = value
        names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(value).__mro__]
        self.known = next((_ADVICE[name] for name in names if name in _ADVICE), None)

    @property
    def place(self) -> str:
        """Return the location of the part in words, for example ``[2].lock of argument 1``."""
        words = [self.root]
        for step in self.steps:
            if step[0] in "[." and len(words) > 1:
                words[-1] += step
            else:
                words.append(step)
        return " of ".join(reversed(words))

    def advice(self, why: str, *, returning: bool = False) -> str:
        """Return advice as a sentence that follows the error text; "" if the error itself may give it.

        Args:
            why: the text of the error.
            returning: True if a call returned the part, False if it is sent to a call.
        """
        if self.root.startswith(FUNCTION) and not self.steps and isinstance(self.value, (CoroutineType, GeneratorType)):
            return ". Submit the function and its arguments, not the result of calling it"
        known = self.known
        if known is None and why.lower().startswith(("cannot pickle", "can't pickle")):
            # Python's own message gives no advice.
            known = _UNKNOWN
        text = known[returning] if known is not None else ""
        return f". {text[0].upper()}{text[1:]}" if text else ""


def of_call(
    name: str, fn: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], try_pickle: TryPickle
) -> UnpicklablePart | None:
    """Find the part of a call that cannot be pickled.

    Args:
        name: the function's name.
        fn, args, kwargs: the call.
        try_pickle: pickles a value, and raises if that fails.

    Returns:
        The part; None if each part of the call can be pickled by itself.
    """
    if fn is run_stream:
        fn, args, kwargs, _ = args
        name = getattr(fn, "__qualname__", name)
    if fn is run_worker:
        _, _, fn, args, kwargs = args
        name = getattr(fn, "__qualname__", name)
    elif fn is call_method:
        name, args = args[0], args[1:]
    if fn is run_chunk or fn is run_items:
        fn, columns, first, *_ = args
        name = getattr(fn, "__qualname__", name)
        given = [
            UnpicklablePart(f"argument {place} of {item(first + number)}", (), value)
            for number, arguments in enumerate(zip(*columns, strict=True))
            for place, value in enumerate(arguments, 1)
        ]
    else:
        given = [UnpicklablePart(f"argument {place} of {name}()", (), value) for place, value in enumerate(args, 1)]
        given += [UnpicklablePart(f"argument {key!r} of {name}()", (), value) for key, value in kwargs.items()]
    return _descend([UnpicklablePart(f"{FUNCTION} {name}", (), fn), *given], try_pickle, _DEPTH)


def of_result(value: Any, try_pickle: TryPickle, first: int | None = None) -> UnpicklablePart | None:
    """Find the part of a result that cannot be pickled. See `of_call`.

    Args:
        value: the result.
        try_pickle: pickles a value, and raises if that fails.
        first: the number of a chunk's first item; None if the result is not a chunk's.
    """
    if first is None:
        return of_value("the result", value, try_pickle)
    values = [UnpicklablePart(f"the result of {item(first + number)}", (), one) for number, one in enumerate(value)]
    return _descend(values, try_pickle, _DEPTH)


def of_value(root: str, value: Any, try_pickle: TryPickle) -> UnpicklablePart | None:
    """Find the part of a value that cannot be pickled; `root` is a name for the value. See `of_call`."""
    return _descend([UnpicklablePart(root, (), value)], try_pickle, _DEPTH)


def _descend(suspects: list[UnpicklablePart], try_pickle: TryPickle, depth: int) -> UnpicklablePart | None:
    """Find the first suspect that fails, and return its innermost failing part.

    The search stops early at a part of a known type.
    """
    found = _first_failing(suspects, try_pickle)
    if found is None or not depth or found.known is not None:
        return found
    inner = [UnpicklablePart(found.root, (*found.steps, step), part) for step, part in _parts_of(found.value)]
    return _descend(inner, try_pickle, depth - 1) or found


def _first_failing(suspects: list[UnpicklablePart], try_pickle: TryPickle) -> UnpicklablePart | None:
    """Return the first suspect that fails by itself. Halving costs about as much as pickling all suspects twice."""
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        suspects = half if _fails([one.value for one in half], try_pickle) else suspects[len(half) :]
    return suspects[0] if suspects and _fails(suspects[0].value, try_pickle) else None


def _fails(value: Any, try_pickle: TryPickle) -> bool:
    try:
        try_pickle(value)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException:  # __reduce__ and __getstate__ are user code
        return True
    return False


def _parts_of(value: Any) -> list[tuple[str, Any]]:
    """Return the parts that a value is pickled from, each with its step; empty if it defines its own pickling."""
    if isinstance(value, dict):
        return [(_key(key), part) for key, part in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return [(f"[{number}]", part) for number, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [("an element", part) for part in value]
    if isinstance(value, MethodType):
        return [(".__self__", value.__self__)]
    if isinstance(value, partial):
        return [(".func", value.func), (".args", value.args), (".keywords", value.keywords)]
    if isinstance(value, FunctionType):
        return list(_captured(value))
    return list(_attributes(value))


def _captured(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"variable {name!r}", cell.cell_contents
        except ValueError:  # no value has been assigned to it yet
            continue
    # Only a function that is found in no module comes here, and only such a function brings its globals.
    for name in all_names(function.__code__) & function.__globals__.keys():
        yield f"global {name!r}", function.__globals__[name]
    yield ".__defaults__", function.__defaults__ or ()
    yield ".__kwdefaults__", function.__kwdefaults__ or {}


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    kind: Any = type(value)
    standard: Any = object
    if any(
        getattr(kind, name) is not getattr(standard, name) for name in ("__reduce_ex__", "__reduce__", "__getstate__")
    ):
        return
    try:
        state = standard.__getstate__(value)
    except Exception:  # it has no state
        return
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from ((f".{name}", attribute) for name, attribute in part.items())


def _key(key: Any) -> str:
    """Return a key as a subscript shows it. Only strings and integers are shown: other keys' repr() is user code."""
    shown = repr(key) if type(key) in (str, int) else "..."
    return f"[{shown}]" if len(shown) <= _KEY else f"[{shown[:_KEY]}...]"
