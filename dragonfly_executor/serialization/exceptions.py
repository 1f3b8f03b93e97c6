"""Encodes and decodes exceptions, even those that fail when they are printed, pickled or opened."""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.errors.base import UnopenedCallError
from dragonfly_executor.serialization import rebuild
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Any

    from dragonfly_executor.serialization.layout import Buffer, Received

    _Link = tuple[BaseException, int, int, bool]

# Limits of the text that describes an exception. The exception itself travels whole.
_TEXT_LIMIT = 64 * 1024
_CHAIN_LIMIT = 16
_FRAMES_LIMIT = 100


def qualified_name(kind: type) -> str:
    """Return a type's name as a traceback shows it."""
    try:
        module, name = getattr(kind, "__module__", None), kind.__qualname__
    except Exception:  # a metaclass may run code of its own here
        module, name = None, type.__dict__["__qualname__"].__get__(kind)
    if module == "__mp_main__":
        module = "__main__"  # the program's own name for this module
    return name if module in (None, "builtins") else f"{module}.{name}"


def text_of(exc: BaseException) -> str:
    """Return ``str(exc)``, or a text that says why it failed. Never raises."""
    try:
        return _shorten("".join([str(exc)]))  # join returns a plain str, because a subclass of str pickles as itself
    except BaseException as failure:  # str() runs the exception's own code, which may do anything
        return f"<str() of the exception raised {type(failure).__name__}>"


def one_line(exc: BaseException) -> str:
    """Return the name of an exception's type, and its text."""
    return f"{qualified_name(type(exc))}: {text_of(exc)}"


def traceback_text(exc: BaseException) -> str:
    """Return the traceback with its chain, from the first frame outside this package."""
    try:
        from traceback import format_exception

        return _shorten("".join(format_exception(type(exc), exc, _outside_frames(exc))))
    except BaseException as failure:  # formatting runs user code: str(), __notes__ and __getattr__
        shown = f"<the traceback could not be formatted: {type(failure).__name__}>"
        return f"{_frames(exc)}{qualified_name(type(exc))}: {text_of(exc)}\n{shown}"


def _sourceless(exc: BaseException) -> list[Any]:
    """Return the frames of an exception and its chain whose source is not here, for the parent, which may have it."""
    try:
        from dragonfly_executor.serialization.remote_source import sourceless_frames

        return sourceless_frames(_get(link, "__traceback__") for link, *_ in _linked(exc))
    except BaseException:  # the call has used up memory or descriptors, or a loader raises
        return []


def _frames(exc: BaseException) -> str:
    """Return the frames of a traceback without importing anything: a call may have used up all file descriptors."""
    lines = ["Traceback (most recent call last):\n"]
    traceback = _outside_frames(exc)
    while traceback is not None and len(lines) <= _FRAMES_LIMIT:
        code = traceback.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {traceback.tb_lineno}, in {code.co_name}\n')
        traceback = traceback.tb_next
    return "".join(lines) if len(lines) > 1 else ""


def encode(exc: BaseException, dumps: Callable[[Any], bytes], loads: Callable[[bytes], Any]) -> list[Buffer]:
    """Encode an exception as a payload. Never raises.

    Args:
        exc: the exception. Its tracebacks are dropped, so that they keep nothing alive.
        dumps: pickles objects that may need more than plain pickle.
        loads: the inverse: an exception that cannot be opened again does not travel.
    """
    described, notes = (qualified_name(type(exc)), text_of(exc), traceback_text(exc)), _notes(exc)
    sourceless = _sourceless(exc)
    try:
        _forget_tracebacks(exc)
        chain = _linked(exc)
        whole = _travelling(chain, dumps, loads)
        if whole is None and len(chain) > 1:
            whole = _travelling([(exc, -1, -1, True)], dumps, loads)
        if whole is None and isinstance(exc, UnopenedCallError):
            # There may be no memory to open it as a test. Its parts are known, so it needs no test.
            whole = dumps([(exc, -1, -1, True)])
    except BaseException:  # a class may override __cause__; then the description is enough
        whole = None
    more = [notes, sourceless] if sourceless else [notes] if notes else []
    return [pickle.dumps((*described, whole, *more), 5)]


def decode(data: Received, loads: Callable[[bytes], Any]) -> BaseException:
    """Return the exception in a payload, or an `errors.RemoteCallError` as a stand-in.

    Its cause is an `errors.RemoteTraceback`. The exception's own cause becomes the ``__context__`` of that, for code
    that walks the chain. It is not printed again, because the text shows it already.
    """
    try:
        name, text, traceback, whole, *more = pickle.loads(data)
    except Exception as failure:
        return errors.RemoteCallError("an exception that cannot be read", f"{type(failure).__name__}: {failure}")
    if len(more) > 1:
        from dragonfly_executor.serialization.remote_source import with_source

        traceback = with_source(traceback, more[1])
    exc, own_cause = _opened(whole, loads)
    if exc is None:
        exc = errors.RemoteCallError(name, text, traceback)
    if more and more[0] and not _notes(exc):
        # A stand-in has no notes, and neither has an exception that pickles without them.
        _set(exc, "__notes__", more[0])
    remote = errors.RemoteTraceback(traceback)
    remote.__context__ = own_cause
    remote.__suppress_context__ = True
    _set(exc, "__cause__", remote)
    return exc


def _opened(whole: bytes | None, loads: Callable[[bytes], Any]) -> tuple[BaseException | None, BaseException | None]:
    if whole is None:
        return None, None
    try:
        links = loads(whole)
        for exc, cause, context, suppress in links:
            _set(exc, "__cause__", links[cause][0] if cause >= 0 else None)
            _set(exc, "__context__", links[context][0] if context >= 0 else None)
            _set(exc, "__suppress_context__", suppress)
        top = links[0][0]
        # Not "or": an exception may be falsy, if its class defines __len__.
        cause = _get(top, "__cause__")
        return top, _get(top, "__context__") if cause is None else cause
    except KeyboardInterrupt:
        raise
    except BaseException:  # user code: the class may be missing here, or its __setstate__ may raise or exit
        return None, None


class _Rebuilt:
    """A stand-in that unpickles to its exception, which is made without its own ``__init__``."""

    def __init__(self, exc: BaseException, rebuilder: _Rebuilder) -> None:
        self._exc = exc
        self._rebuilder = rebuilder

    def __reduce__(self) -> Any:
        exc, portable = self._exc, self._rebuilder.part
        reduced: Any = rebuild.builtin_base(type(exc)).__reduce__(exc)
        args, state = reduced[1], dict(reduced[2] or {}) if len(reduced) > 2 else {}
        if isinstance(exc, BaseExceptionGroup):
            # The args of a group are the arguments of its own __new__.
            state["args"] = tuple(map(portable, args))
            args = (exc.message, exc.exceptions)
        for base in type(exc).__mro__:
            slots = vars(base).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(exc, name):
                    state[name] = getattr(exc, name)
        args, state = tuple(map(portable, args)), {name: portable(value) for name, value in state.items()}
        return rebuild.new_exception, (type(exc), args), state, None, None, rebuild.fill_exception


class _Rebuilder:
    """The forms in which exceptions can travel. An exception that occurs twice stays one object."""

    def __init__(self, dumps: Any, loads: Any) -> None:
        self._dumps = dumps
        self._loads = loads
        self._rebuilt: dict[int, _Rebuilt] = {}

    def portable(self, exc: BaseException) -> Any:
        """Return the exception if it survives pickling unchanged, or a `_Rebuilt` of it if not."""
        if id(exc) in self._rebuilt:
            return self._rebuilt[id(exc)]
        if _probed([(exc, -1, -1, True)], self._dumps, self._loads)[1] == [text_of(exc)]:
            return exc
        kind = type(exc)
        if (
            kind.__reduce__ is not rebuild.builtin_base(kind).__reduce__
            or kind.__reduce_ex__ is not object.__reduce_ex__
        ):
            # The class defines how it pickles, or that it does not.
            return exc
        return self._rebuilt.setdefault(id(exc), _Rebuilt(exc, self))

    def part(self, value: Any) -> Any:
        """Return a part of an exception in the form that travels: an exception, or a list or tuple that holds some."""
        if isinstance(value, BaseException):
            return self.portable(value)
        if type(value) in (list, tuple) and any(isinstance(item, BaseException) for item in value):
            return type(value)(map(self.part, value))
        return value


def _travelling(chain: list[_Link], dumps: Any, loads: Any) -> bytes | None:
    """Pickle a chain: unchanged if it survives that, rebuilt if not. Return None if neither form can be opened."""
    texts = [text_of(link[0]) for link in chain]
    whole, shown = _probed(chain, dumps, loads)
    if shown == texts:
        return whole
    rebuilder = _Rebuilder(dumps, loads)
    try:
        rebuilt = [(rebuilder.portable(exc), *places) for exc, *places in chain]
    except BaseException:  # a metaclass may run code of its own here
        return whole
    again, shown = _probed(rebuilt, dumps, loads)
    # A text that differs in both forms contains an address or a time, so the first form is fine.
    return again if again is not None and (whole is None or shown == texts) else whole


def _probed(chain: Any, dumps: Any, loads: Any) -> tuple[bytes | None, list[str]]:
    """Pickle and open a chain. Return the pickle, or None if it does not open to exceptions, and the opened texts."""
    try:
        whole: bytes = dumps(chain)
        opened = [link[0] for link in loads(whole)]
        return (
            (whole, [text_of(exc) for exc in opened])
            if all(isinstance(e, BaseException) for e in opened)
            else (None, [])
        )
    except BaseException:  # runs the exception's own __reduce__ and __init__: RecursionError, SystemExit ...
        return None, []


def _linked(exc: BaseException) -> list[tuple[BaseException, int, int, bool]]:
    """Return an exception with its causes and contexts; the numbers are places in this list, -1 for none."""
    found = [exc]
    for link in found:
        for other in (_get(link, "__cause__"), _get(link, "__context__")):
            if other is not None and len(found) < _CHAIN_LIMIT and all(other is not known for known in found):
                found.append(other)
    places = {id(link): place for place, link in enumerate(found)}

    def place(link: BaseException, name: str) -> int:
        return places.get(id(_get(link, name)), -1)

    return [
        (link, place(link, "__cause__"), place(link, "__context__"), _get(link, "__suppress_context__"))
        for link in found
    ]


def _forget_tracebacks(exc: BaseException) -> None:
    for link, *_ in _linked(exc):
        _set(link, "__traceback__", None)
        if issubclass(type(link), BaseExceptionGroup):  # isinstance may run the exception's own code
            group: Any = link
            for member in group.exceptions:
                _forget_tracebacks(member)


def _get(exc: BaseException, name: str) -> Any:
    # Bypasses an attribute of this name in the exception's own class.
    return BaseException.__dict__[name].__get__(exc)


def _set(exc: BaseException, name: str, value: object) -> None:
    # Bypasses the class's own __setattr__ (a frozen dataclass refuses) and any attribute of this name in the class.
    if name == "__notes__":
        BaseException.__setattr__(exc, name, value)
    else:
        BaseException.__dict__[name].__set__(exc, value)


def _notes(exc: BaseException) -> list[str]:
    """Return those notes of an exception that are strings."""
    try:
        notes = BaseException.__getattribute__(exc, "__notes__")
        return [_shorten(str.__str__(note)) for note in notes if isinstance(note, str)]
    except Exception:  # it has no notes, or an attribute of another kind under this name
        return []


def _outside_frames(exc: BaseException) -> TracebackType | None:
    traceback: TracebackType | None = _get(exc, "__traceback__")
    package = __name__.rpartition(".")[0]
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").startswith(package):
        traceback = traceback.tb_next
    return traceback


def _shorten(text: str) -> str:
    if len(text) <= _TEXT_LIMIT:
        return text
    half = _TEXT_LIMIT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def call_error_text(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    exc: BaseException,
    try_pickle: Callable[[Any], object],
) -> str:
    """Return the error text for a call that cannot be pickled: which part fails, why, and what to do.

    Args:
        fn, args, kwargs: the call.
        exc: what pickling it has raised.
        try_pickle: pickles a part by itself, and raises if that fails.
    """
    found, text = None, one_line(exc)
    if not isinstance(exc, (RecursionError, MemoryError)):
        from dragonfly_executor.serialization import unpicklable

        found = unpicklable.of_call(_named(fn), fn, args, kwargs, try_pickle)
    if found is None:
        return f"{_named(fn)} or its arguments cannot be pickled: {text}"
    kind = qualified_name(type(found.value))
    return f"{found.place}, of type {kind}, cannot be pickled: {text}{found.advice(text_of(exc))}"


def _named(fn: Any) -> str:
    try:
        return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)
    except Exception:  # a callable object's own __getattr__ may raise
        return "the call"
