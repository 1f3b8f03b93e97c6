"""A slot's half: calls from bytes, results and exceptions to bytes. One thread."""

from __future__ import annotations

import os
import pickle
import sys
from pickle import Pickler
from types import CoroutineType, NoneType

from dragonfly_executor import errors
from dragonfly_executor.errors.base import UnopenedCallError
from dragonfly_executor.serialization import authkey, exceptions
from dragonfly_executor.serialization.formats import MARK, Format
from dragonfly_executor.serialization.layout import (
    BOX,
    BY_NAME,
    MAIN_CALL,
    NEEDS_MAIN,
    PICKLE,
    WITH_PATH,
    Buffers,
    Sink,
    join,
    pack,
    split_path,
    unpack_all,
    views,
)
from dragonfly_executor.serialization.map_chunk import run_chunk
from dragonfly_executor.serialization.missing_module import explain_missing_module
from dragonfly_executor.serialization.module_origin import forget_replaced
from dragonfly_executor.serialization.rebuild import main_attribute
from dragonfly_executor.serialization.slot_main import SlotMain

# Type checkers take this name for true. A runner imports this module, and has no other use for typing, which is slow.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.serialization.layout import Buffer, Received
    from dragonfly_executor.serialization.working_directory import Place


_ATOMS = frozenset({NoneType, bool, int, float})  # they need no look inside


class SlotCodec:
    """Opens calls and closes results. Making one changes nothing in the process; `prepare` does.

    Args:
        setup: what the parent's ``CallCodec.setup()`` returned.
        place: where the parent's files lie; None where they are seen as the parent sees them.

    Attributes:
        main: the script's own module.
    """

    def __init__(self, setup: bytes, place: Place | None = None) -> None:
        self._setup: dict[str, Any] = pickle.loads(setup)
        self._place = place
        self._path = b""
        """The parent's import path, as a call has last brought it."""
        self.main = SlotMain(self._setup["main"] if place is None else self._moved_main(place.root))
        self._format = Format(self._setup["serializer"] or "cloudpickle")

    def prepare(self) -> None:
        """Make the process look like the parent: import path, directory, arguments, ``__main__``. Once.

        Raises:
            UnopenedCallError: the parent's serializer object cannot be opened here.
        """
        if self._place is None:
            self._enter_parents_directory()
        else:
            self._place.enter(self._setup["path"], self._setup["cwd"])
        # The agent has loaded the standard library's: a call imports what the parent has under these names.
        for name in [name for name in sys.modules if name.partition(".")[0] in self._setup.get("shadowing", ())]:
            del sys.modules[name]
        sys.argv[:] = self._setup["argv"]
        if self._setup["authkey"] is not None:
            authkey.adopt(self._setup["authkey"])
        self.main.install()
        if self._setup["custom"] is not None:
            _, (serializer,), _, _ = self.decode_call(self._setup["custom"])
            self._format = Format(serializer)

    def import_script(self) -> None:
        """Import the parent's script ahead of the calls that need it. An error is kept for the first of them."""
        self.main.import_ahead()

    def give_up_script(self, reason: str) -> None:
        """Fail each call that needs the script, with this reason, instead of importing it."""
        self.main.give_up(reason)

    def _enter_parents_directory(self) -> None:
        # That and no more: what only the agent could import, a call could not import in the parent.
        sys.path[:] = self._setup["path"]
        try:
            os.chdir(self._setup["cwd"])
        except OSError:
            # The directory may be gone. ProcessPoolExecutor's workers go on as well.
            return

    def _moved_main(self, root: str) -> dict[str, Any]:
        """The script's description, with its files where they lie on this host."""
        main = dict(self._setup["main"])
        for key in ("path", "entry"):
            if main[key] is not None:
                main[key] = os.path.join(root, main[key])
        return main

    def decode_call(
        self, data: Received
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], tuple[type[BaseException], ...]]:
        """The function, its arguments, and the exceptions that are worth another try.

        Arrays among the arguments may be views of ``data``, which is not to be used again.

        Raises:
            UnopenedCallError: the payload cannot be opened here; its cause says why.
        """
        try:
            call = pickle.loads(data) if data[0] == PICKLE else self._call(data)
            return call if len(call) == 4 else (*call, ())
        except BaseException as exc:  # imports and __setstate__ run user code, which may even exit
            text = f"{exceptions.qualified_name(type(exc))}: {exceptions.text_of(exc)}"
            what = f"the call, of {len(data)} bytes," if isinstance(exc, MemoryError) else "the call"
            raise UnopenedCallError(f"{what} cannot be unpickled on the runner: {text}") from exc

    def encode_result(self, value: Any, first: int | None = None) -> list[Buffer]:
        """A value as the pieces of a payload. They are views of it where it is large.

        Args:
            value: what a call returned.
            first: of a chunk of a map: the number of its first item; None for what is no chunk's.

        Raises:
            ResultSerializationError: it cannot be pickled; its cause says why.
            SystemExit: what it is made of called ``sys.exit()``; that is the call's end as it is within the call.
        """
        if type(value) in _ATOMS and self._format.custom is None:
            return [pickle.dumps(value, 5)]
        try:
            return self._dump(value)
        except Exception as exc:  # __reduce__ and __getstate__ are user code
            raise errors.ResultSerializationError(self._refusal(value, exc, first)) from exc

    def encode_error(self, exc: BaseException) -> list[Buffer]:
        """An exception as a payload. It loses its tracebacks, which are sent as text. Never raises."""
        if self._place is not None:
            explain_missing_module(exc)
        # Not with a serializer of the user's: an exception says what went wrong with that one, too.
        return exceptions.encode(exc, lambda chain: join(self._dump_standard(chain)), self._open)

    def _refusal(self, value: Any, exc: Exception, first: int | None) -> str:
        """Return what is told of a result that cannot be pickled: which part it is, why, and what to do."""
        text, whole = (
            f"{exceptions.qualified_name(type(exc))}: {exceptions.text_of(exc)}",
            exceptions.qualified_name(type(value)),
        )
        found = None
        if not isinstance(exc, (RecursionError, MemoryError)):
            from dragonfly_executor.serialization import unpicklable

            found = unpicklable.of_result(value, self._dump, first)
        if found is None:
            return f"the result, of type {whole}, cannot be pickled: {text}"
        kind = exceptions.qualified_name(type(found.value))
        if isinstance(found.value, CoroutineType):
            found.value.close()  # or it complains on stderr that nobody has awaited it
        place = f"{found.place} (a {whole})" if found.steps and first is None else found.place
        return (
            f"{place}, of type {kind}, cannot be pickled: {text}{found.advice(exceptions.text_of(exc), returning=True)}"
        )

    def _dump(self, value: Any) -> list[Buffer]:
        if self._format.custom is None:
            return self._dump_standard(value)
        return pack(self._format.flags, b"", [bytes(self._format.custom.dumps(value))], [], copy=False)

    def _dump_standard(self, value: Any) -> list[Buffer]:
        sink, buffers = Sink(), Buffers()
        try:
            Pickler(sink, 5, buffer_callback=buffers.add).dump(value)
            done = MARK not in sink[0] if len(sink) == 1 else not any(MARK in piece for piece in sink)
        except Exception:  # it needs more than pickle; or it fails below as well, with the same error
            done = False
        if done and not buffers.views:
            return views(sink)
        flags = 0
        if not done:
            sink, buffers, _ = self._format.tracked(value, self.main, returning=True)
            flags = self._format.standard_flags
        return pack(flags, b"", views(sink), buffers.views, copy=False)

    def _call(self, data: Received) -> Any:
        if data[0] == MAIN_CALL:
            self.main.ensure_imported()
            name, *rest = pickle.loads(memoryview(data)[1:])
            return main_attribute(name), *rest
        return self._open(data)

    def _open(self, data: Received) -> Any:
        if data[0] != BOX:
            return pickle.loads(data)
        flags, definitions, body, buffers, first = unpack_all(data)
        if flags & WITH_PATH:
            path, definitions = split_path(definitions)
            self._take_path(path)
        if flags & NEEDS_MAIN:
            self.main.ensure_imported()
        if definitions:
            self.main.apply(definitions, buffers[:first], self._definition)
        opened = self._format.open(flags, body, buffers[first:])
        if flags & BY_NAME:
            name, *rest = opened
            return main_attribute(name), *rest
        return opened

    def _take_path(self, path: bytes) -> None:
        """Import from where the parent does by now. What a call has changed stays until the parent changes it again."""
        if path == self._path:
            return
        self._path = path
        if self._place is None:
            sys.path[:] = pickle.loads(path)
        else:
            self._place.import_from(pickle.loads(path))
        forget_replaced()

    def _definition(self, data: bytes) -> Any:
        return self._format.open(self._format.standard_flags, data, [])


def perform(
    codec: SlotCodec, data: Received, on_begin: Callable[[], None] | None = None
) -> tuple[bool, bool, list[Buffer]]:
    """Run the call in a payload.

    Args:
        codec: opens the call and closes its result.
        data: the payload.
        on_begin: called when the call is open, before its function is.

    Returns:
        Whether it failed, whether its exception is one that the caller wants retried, and the payload to send back.
        Nothing of the call is referred to any more, except by views in that payload.
    """
    retryable = False
    try:
        fn, args, kwargs, retry_on = codec.decode_call(data)
        first = args[2] if fn is run_chunk else None
        if on_begin is not None:
            on_begin()
        try:
            value = fn(*args, **kwargs)
        except BaseException as exc:
            retryable = bool(retry_on) and isinstance(exc, retry_on)
            raise
        finally:
            del fn, args, kwargs
        return False, False, codec.encode_result(value, first)
    except BaseException as exc:
        return True, retryable, codec.encode_error(exc)
