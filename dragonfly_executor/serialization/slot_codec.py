"""A slot's half: decodes calls, encodes results and exceptions. One thread."""

from __future__ import annotations

import os
import sys
from types import CoroutineType

from dragonfly_executor import errors
from dragonfly_executor.errors.base import UnopenedCallError
from dragonfly_executor.serialization import authkey, exceptions, function_call, large_unpickler
from dragonfly_executor.serialization.formats import MARK, SerializerFormat
from dragonfly_executor.serialization.large_unpickler import LARGE
from dragonfly_executor.serialization.layout import (
    BOX,
    BY_CODE,
    BY_NAME,
    IN_BAND_BELOW,
    MAIN_CALL,
    NEEDS_MAIN,
    NOTHING,
    PICKLE,
    WITH_PATH,
    WITH_SHARED,
    Buffers,
    Sink,
    join,
    pack,
    split_part,
    unpack,
    unpack_all,
    views,
)
from dragonfly_executor.serialization.main_pickler import MAIN_NAMES
from dragonfly_executor.serialization.map_chunk import (
    ItemOutcomes,
    add_note,
    plain,
    run_chunk,
    run_items,
    run_stream,
    shown_item,
)
from dragonfly_executor.serialization.missing_module import explain_missing_module
from dragonfly_executor.serialization.module_origin import forget_replaced
from dragonfly_executor.serialization.rebuild import main_attribute
from dragonfly_executor.serialization.slot_main import SlotMain
from dragonfly_executor.serialization.small_values import ATOMS, LEAST_TEXT, are_numbers, are_small
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.plain_pickle import Pickler
from dragonfly_executor.util.process_mark import ProcessMark

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from dragonfly_executor.serialization.layout import Buffer, BufferSource, Received
    from dragonfly_executor.serialization.parent_codec import CallCodec
    from dragonfly_executor.serialization.slot_loop import SlotLoop
    from dragonfly_executor.serialization.stream_run import ItemSink
    from dragonfly_executor.serialization.working_directory import WorkingDirectory


class SlotCodec:
    """The decoder of calls and encoder of results and exceptions, on a slot's side.

    The constructor does not change the process; `prepare` does.

    Args:
        setup: the result of the parent's ``CallCodec.setup()``.
        place: the locations of the parent's files; None if the slot sees them where the parent does.
        load: opens the setup.

    Attributes:
        main: the script's own module.
        mark: tells this process from the children that calls fork. A slot for which the codec was made in advance moves
            it here.
        loop: runs the coroutines of calls; None before the first.
        shared: returns a shared object by its number, while a call that uses the object is decoded.
    """

    loop: SlotLoop | None = None
    shared: Callable[[int], Any] | None = None

    def __init__(
        self, setup: bytes, place: WorkingDirectory | None = None, load: Callable[[bytes], Any] = pickle.loads
    ) -> None:
        self._setup: dict[str, Any] = load(setup)
        self._place = place
        self._path = b""
        """The parent's pickled import path, as the last call brought it."""
        self.mark = ProcessMark()
        self.main = SlotMain(self._setup["main"] if place is None else self._moved_main(place.root))
        self._format = SerializerFormat(self._setup["serializer"] or "cloudpickle")

    def prepare(self) -> list[str]:
        """Set up the process like the parent: import path, directory, arguments, ``__main__``. Call this once.

        Returns:
            The names of the loaded modules that the parent has modules of its own for. They are loaded no longer.

        Raises:
            UnopenedCallError: the parent's serializer object cannot be opened here.
        """
        if self._place is None:
            self._enter_parents_directory()
        else:
            self._place.enter(self._setup["path"], self._setup["cwd"])
        # The agent loaded the standard library's modules. A call must import the parent's modules of these names.
        shadowing = self._setup.get("shadowing", ())
        shadowed = [name for name in sys.modules if name.partition(".")[0] in shadowing] if shadowing else []
        for name in shadowed:
            del sys.modules[name]
        sys.argv[:] = self._setup["argv"]
        if self._setup["authkey"] is not None:
            authkey.adopt(self._setup["authkey"])
        if "settings" in self._setup:
            # Imported only if the parent has such settings.
            from dragonfly_executor.serialization.program_settings import apply

            apply(self._setup["settings"])
        self.main.install()
        if self._setup["custom"] is not None:
            _, (serializer,), _, _ = self.decode_call(self._setup["custom"])
            self._format = SerializerFormat(serializer)
        return shadowed

    def import_script(self) -> None:
        """Import the parent's script ahead of the calls that need it. The first of these calls raises its error."""
        self.main.import_ahead()

    def give_up_script(self, reason: str) -> None:
        """Fail each call that needs the script, with this reason, instead of importing the script."""
        self.main.give_up(reason)

    def _enter_parents_directory(self) -> None:
        # Only the parent's path: a module that only the agent can import could not be imported in the parent.
        sys.path[:] = self._setup["path"]
        try:
            os.chdir(self._setup["cwd"])
        except OSError:
            # The directory may be gone. Workers of ProcessPoolExecutor go on as well.
            return

    def _moved_main(self, root: str) -> dict[str, Any]:
        """Return the script's description, with its files where they lie on this host."""
        main = dict(self._setup["main"])
        for key in ("path", "entry"):
            if main[key] is not None:
                main[key] = os.path.join(root, main[key])
        return main

    def decode_call(
        self, data: Received, beside: Mapping[int, BufferSource] = NOTHING
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], tuple[type[BaseException], ...]]:
        """Return the function, its arguments, and the exceptions to retry on.

        Arrays among the arguments may be views of ``data``, so the caller must not use ``data`` again.

        Args:
            data: the payload.
            beside: its buffers that lie elsewhere; see `layout.unpack_all`.

        Raises:
            UnopenedCallError: the payload cannot be opened here; the cause says why.
        """
        try:
            # Nearly all calls are small plain pickles, for which one function call less counts.
            call = pickle.loads(data) if data[0] == PICKLE and len(data) < LARGE else self._call(data, beside)
            return call if len(call) == 4 else (*call, ())
        except BaseException as exc:  # imports and __setstate__ run user code, which may even exit
            text = exceptions.one_line(exc)
            what = f"the call, of {len(data)} bytes," if isinstance(exc, MemoryError) else "the call"
            raise UnopenedCallError(f"{what} cannot be unpickled on the runner: {text}") from exc

    def child_codec(self) -> CallCodec:
        """Return an encoder of calls that a call submits to the pool, which also opens their results."""
        # Imported for the first such call.
        from dragonfly_executor.serialization.child_codec import child_codec

        return child_codec(self._format, script_travels=self.main.file is not None)

    @property
    def pickles_plainly(self) -> bool:
        """Return False if values are encoded by the user's own serializer object."""
        return self._format.custom is None

    def open_shared(self, data: Received) -> Any:
        """Open a shared object. Arrays in it are views of ``data``.

        Args:
            data: the pickle, as the parent's ``CallCodec.encode_shared`` returned it, or the result of another slot.
        """
        if data[0] == PICKLE:
            return large_unpickler.loads(data)
        flags, _, body, buffers = unpack(data)
        return self._format.open(flags, body, buffers, self.shared)

    def run_coroutine(self, coroutine: CoroutineType[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, and return its value."""
        if self.loop is None:
            # Imported for the first coroutine, as few calls have one.
            from dragonfly_executor.serialization.slot_loop import SlotLoop

            self.loop = SlotLoop()
        return self.loop.run(coroutine)

    def encode_result(self, value: Any, first: int | None = None) -> list[Buffer]:
        """Encode a value as the pieces of a payload. Large pieces are views of the value.

        Args:
            value: a call's return value.
            first: the number of a chunk's first item in its map; None if the call is not a chunk.

        Raises:
            ResultSerializationError: the value cannot be pickled; the cause says why.
            SystemExit: the value's own code called ``sys.exit()``, which ends the call like an exit inside the call.
        """
        sent, kind, is_custom = value, type(value), self._format.custom is not None
        if kind is bytes and len(value) <= IN_BAND_BELOW and not is_custom:
            return [pickle.dumps(value, 5)]
        if kind in ATOMS and not is_custom:
            if kind is not str or len(value) < LEAST_TEXT:
                return [pickle.dumps(value, 5)]
            # Imported at the first large text.
            from dragonfly_executor.serialization.large_text import LargeText

            sent = LargeText(value)
        try:
            if not is_custom and ((kind is list and are_numbers(value)) or are_small((value,))):
                return [pickle.dumps(value, 5)]
            return self._dump(sent)
        except Exception as exc:  # __reduce__ and __getstate__ are user code
            raise errors.ResultSerializationError(self._error_text(value, exc, first)) from exc

    def encode_error(self, exc: BaseException) -> list[Buffer]:
        """Encode an exception as a payload. Its tracebacks are dropped, and sent as text. Never raises."""
        if self._place is not None:
            explain_missing_module(exc)
        # Not with a custom serializer: the exception may report that serializer's own failure.
        return exceptions.encode(exc, lambda chain: join(self._dump_standard(chain)), self._open)

    def encode_items(self, outcomes: ItemOutcomes, first: int) -> list[Buffer]:
        """Encode the outcomes of the items of a chunk. A value that cannot be pickled fails its own item alone.

        Args:
            outcomes: the outcomes.
            first: the number of the chunk's first item.

        Returns:
            The payload of a tuple: the values, or their payload if the serializer is the user's; for each item that
            failed, its place and its encoded exception; the seconds.
        """
        values = outcomes.values
        failures = [(place, join(self.encode_error(error))) for place, error in outcomes.failures]
        for again in (False, True):
            try:
                sent = values if self._format.custom is None else join(self._dump(values))
                return self._dump_standard((sent, failures, outcomes.seconds))
            except Exception:  # __reduce__ and __getstate__ are user code
                if again:
                    raise
                for place, value in enumerate(values):
                    try:
                        self.encode_result([value], first + place)
                    except errors.ResultSerializationError as error:
                        failures.append((place, join(self.encode_error(error))))
                        values[place] = None
        raise AssertionError("unreachable")

    def _error_text(self, value: Any, exc: Exception, first: int | None) -> str:
        """Return the error text for a result that cannot be pickled: which part fails, why, and what to do."""
        text, whole = exceptions.one_line(exc), exceptions.qualified_name(type(value))
        found = None
        if not isinstance(exc, (RecursionError, MemoryError)):
            from dragonfly_executor.serialization import unpicklable

            found = unpicklable.of_result(value, self._dump, first)
        if found is None:
            return f"the result, of type {whole}, cannot be pickled: {text}"
        kind = exceptions.qualified_name(type(found.value))
        if isinstance(found.value, CoroutineType):
            found.value.close()  # an unawaited coroutine prints a warning to stderr
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
        done = type(value).__module__ not in MAIN_NAMES
        try:
            if done:
                Pickler(sink, 5, buffer_callback=buffers.add).dump(value)
                done = MARK not in sink[0] if len(sink) == 1 else not sink.mentions((MARK,))
        except Exception:  # the value needs more than pickle, or fails below as well, with the same error
            done = False
        if done and not buffers.views:
            return views(sink)
        flags = 0
        if not done:
            sink, buffers, _ = self._format.tracked(value, self.main, returning=True)
            flags = self._format.standard_flags
        return pack(flags, b"", views(sink), buffers.views, copy=False)

    def _call(self, data: Received, beside: Mapping[int, BufferSource]) -> Any:
        if data[0] == PICKLE:
            return large_unpickler.loads(data)
        if data[0] == MAIN_CALL:
            self.main.ensure_imported()
            first, *rest = large_unpickler.loads(memoryview(data)[1:])
            # A chunk of a map begins with the function that runs it.
            return main_attribute(first) if type(first) is str else first, *rest
        return self._open(data, beside)

    def _open(self, data: Received, beside: Mapping[int, BufferSource] = NOTHING) -> Any:
        if data[0] != BOX:
            return pickle.loads(data)
        flags, definitions, body, buffers, first = unpack_all(data, beside)
        shared = None
        if flags & WITH_SHARED:
            shared, (_, definitions) = self.shared, split_part(definitions)
        if flags & WITH_PATH:
            path, definitions = split_part(definitions)
            self._take_path(path)
        if flags & NEEDS_MAIN:
            self.main.ensure_imported()
        if definitions:
            self.main.apply(definitions, buffers[:first], lambda data: self._definition(data, shared))
        if flags & BY_CODE:
            code, body = function_call.split(body)
            return function_call.made(code, large_unpickler.loads(body, buffers[first:]))
        opened = self._format.open(flags, body, buffers[first:], shared)
        if flags & BY_NAME:
            name, *rest = opened
            return main_attribute(name), *rest
        return opened

    def _take_path(self, path: bytes) -> None:
        """Set the import path to the parent's current path. Changes by calls stay until the parent's path changes."""
        if path == self._path:
            return
        self._path = path
        if self._place is None:
            sys.path[:] = pickle.loads(path)
        else:
            self._place.import_from(pickle.loads(path))
        forget_replaced()

    def _definition(self, data: bytes, shared: Callable[[int], Any] | None) -> Any:
        return self._format.open(self._format.standard_flags, data, [], shared)


def perform(
    codec: SlotCodec,
    data: Received,
    on_begin: Callable[[], None] | None = None,
    on_error: Callable[[BaseException], None] | None = None,
    beside: Mapping[int, BufferSource] = NOTHING,
    open_sink: Callable[[int], ItemSink] | None = None,
    *,
    is_item: bool = False,
) -> tuple[bool, bool, list[Buffer]]:
    """Run the call in a payload. If its function returns a coroutine, run that to its end.

    Args:
        codec: decodes the call and encodes its result.
        data: the payload.
        on_begin: called once the call is decoded, before its function runs.
        on_error: called with the exception of a call that failed, before it is encoded.
        beside: the buffers of the payload that lie elsewhere; see `layout.unpack_all`.
        open_sink: makes the way of the call's items to the parent, with this window, if the call is a stream.
        is_item: the call is one item of a map, so its exception gets a note of its arguments.

    Returns:
        Whether the call failed, whether the caller wants its exception retried, and the payload to send back. Only
        views in that payload still refer to parts of the call.
    """
    retryable = False
    try:
        fn, args, kwargs, retry_on = codec.decode_call(data, beside)
        first = None
        if fn is run_chunk or fn is run_items:
            first = args[2]
            args = (plain(args[0], codec.run_coroutine), *args[1:])
        if on_begin is not None:
            on_begin()
        if fn is run_items:
            kwargs["is_here"] = codec.mark.is_here
        elif fn is run_stream and open_sink is not None:
            window: Any = args[3]
            kwargs["sink"] = open_sink(window)
        try:
            value = fn(*args, **kwargs)
            if type(value) is CoroutineType:
                value = codec.run_coroutine(value)
        except BaseException as exc:
            retryable = bool(retry_on) and isinstance(exc, retry_on)
            if is_item and first is None:
                add_note(exc, shown_item(args))
            raise
        finally:
            del fn, args, kwargs
        if type(value) is ItemOutcomes and first is not None:
            return False, False, codec.encode_items(value, first)
        return False, False, codec.encode_result(value, first)
    except BaseException as exc:
        if on_error is not None:
            on_error(exc)
        return True, retryable, codec.encode_error(exc)
