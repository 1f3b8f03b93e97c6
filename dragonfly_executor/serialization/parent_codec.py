"""The parent's half: encodes calls, decodes results and exceptions. Any thread, at any time."""

from __future__ import annotations

import sys
from functools import partial
from types import BuiltinFunctionType, FunctionType

from dragonfly_executor import errors
from dragonfly_executor.serialization import exceptions, large_unpickler, slot_setup
from dragonfly_executor.serialization.by_reference import ByReference
from dragonfly_executor.serialization.content_registry import ContentRegistry
from dragonfly_executor.serialization.formats import MARK, SerializerFormat
from dragonfly_executor.serialization.function_call import function_body, function_of, home_in_call, nested_function
from dragonfly_executor.serialization.import_environment import ImportEnvironment
from dragonfly_executor.serialization.layout import (
    BY_CODE,
    BY_NAME,
    IN_BAND_BELOW,
    MAIN_CALL,
    NEEDS_MAIN,
    PICKLE,
    Buffers,
    Sink,
    flat,
    join,
)
from dragonfly_executor.serialization.main_pickler import MAIN_NAMES, importable
from dragonfly_executor.serialization.parent_main import ParentMain
from dragonfly_executor.serialization.payload_packer import PayloadPacker
from dragonfly_executor.serialization.payload_parts import holding_objects
from dragonfly_executor.serialization.rebuild import main_module
from dragonfly_executor.serialization.shared_object import EncodedObject
from dragonfly_executor.serialization.small_values import ATOMS, LEAST_TEXT, are_small
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util import validation
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.plain_pickle import Pickler
from dragonfly_executor.util.validation import GENERATES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import CodeType
    from typing import Any

    from dragonfly_executor.serialization.layout import Buffer, Received
    from dragonfly_executor.serialization.main_pickler import NameTracking
    from dragonfly_executor.serialization.object_registry import ObjectRegistry
    from dragonfly_executor.serialization.parent_main import Names
    from dragonfly_executor.serialization.pending_call import PendingCall
    from dragonfly_executor.serialization.shared_object import SharedContent

    OnCode = Callable[[list[tuple[CodeType, str]]], object]

_MAIN_CALL = bytes([MAIN_CALL])
_NO_NAMES: frozenset[str] = frozenset()


class CallCodec:
    """The encoder of calls and decoder of results and exceptions, on the parent's side.

    Args:
        serializer: how objects that cannot travel by reference travel: "cloudpickle" (the default), "dill", "pickle"
            (not at all), or an object with ``dumps(obj) -> bytes`` and ``loads(bytes) -> obj``.
        script_travels: whether slots can import the script; if not, its definitions travel by value.
        copies: whether `encode_call` copies what the caller can still change. If not, `keep` does.
        read_only: whether slots open calls and shared objects with read-only buffers.
        path_travels: whether slots import from this program's ``sys.path``; calls then bring along its changes.
        on_code: called with all code that travels by value, each with the package that its relative imports start from.

    Raises:
        ValueError: the name is unknown, dill is not installed, or `read_only` is set and the serializer is an object.
        TypeError: the serializer is neither a name nor an object with dumps and loads.
    """

    def __init__(
        self,
        serializer: object = "cloudpickle",
        *,
        script_travels: bool = True,
        path_travels: bool = False,
        copies: bool = True,
        read_only: bool = False,
        on_code: OnCode | None = None,
    ) -> None:
        # A buffer inside the pickle becomes memory of the call's own, which is writable.
        self._format = SerializerFormat(serializer, 1 if read_only else IN_BAND_BELOW)
        self._format.require()
        self._main = ParentMain(self._define, script_travels=script_travels)
        self._script_travels = script_travels
        self._on_code = on_code
        self._environment = ImportEnvironment(path_travels=path_travels)
        self.contents = ContentRegistry()
        """The contents that runners get once: shared objects, and the common pieces of payloads."""
        self._packer = PayloadPacker(self._environment, self.contents, copies=copies, read_only=read_only)
        self._format.refer = self._refer_to_object
        self._objects: ObjectRegistry | None = None
        self._lasting_objects: list[object] = []
        """Multiprocessing's objects in what outlives a call: shared objects, and the script's definitions."""
        self.references = ByReference(self._environment, self._main)
        """Encodes repeated calls of one function."""
        if self._format.custom is not None:
            if read_only:
                raise ValueError(
                    "read_only_arguments=True and a serializer object exclude each other, because the object's loads() "
                    'makes the arguments: use "cloudpickle", "dill" or "pickle"'
                )
            # "__mp_main__" is the name under which a slot imports the script. Our own picklers translate it, but a
            # custom serializer cannot. multiprocessing registers the same alias.
            sys.modules.setdefault("__mp_main__", main_module())

    def encode_call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        retry_on: tuple[type[BaseException], ...] = (),
    ) -> list[Buffer]:
        """Encode a call as the pieces of a payload. The arguments are a snapshot, unless the codec copies nothing.

        Raises:
            CallSerializationError: a part of the call cannot travel; the text says which part, its cause says why.
            TypeError: `fn` is a generator function.
        """
        references = self.references
        reference = references.reference
        if reference is not None and fn is reference.fn:
            data = references.encode(reference, args, kwargs, retry_on)
            if data is not None:
                return [data]
        kind = type(fn)
        if kind is FunctionType:
            if fn.__code__.co_flags & GENERATES:
                validation.refuse(fn)
        elif kind is not BuiltinFunctionType:  # a builtin function runs no Python code that could suspend
            validation.refuse(fn)
        try:
            environment = self._environment
            environment.refresh()
            if self._format.custom is not None:
                return self._custom_call((fn, args, kwargs, retry_on) if retry_on else (fn, args, kwargs))
            for value in (*args, *kwargs.values()) if kwargs else args:
                if type(value) is str and len(value) >= LEAST_TEXT:
                    # Imported at the first large text.
                    from dragonfly_executor.serialization.large_text import with_stand_ins

                    args, kwargs = with_stand_ins(args, kwargs)
                    break
            call = (fn, args, kwargs, retry_on) if retry_on else (fn, args, kwargs)
            nested = nested_function(call) if self._format.name == "cloudpickle" else None
            if nested is not None:
                return self._function_call(nested, call) or self._any_call(call)
            inner: Any = fn.func if isinstance(fn, partial) else fn
            home = getattr(inner, "__module__", None)
            if home not in environment.importable:
                if home in MAIN_NAMES:
                    return self._main_call(call)
                if home is not None and not importable(home):
                    return self._any_call(call)
                environment.importable.add(home)
            return self._plain_call(call)
        except (KeyboardInterrupt, errors.CallSerializationError):
            raise
        except BaseException as exc:  # __reduce__ and __getstate__ are user code
            raise self.call_error(exc, fn, args, kwargs) from exc

    def encode_pending(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        retry_on: tuple[type[BaseException], ...],
    ) -> PendingCall | None:
        """Encode all parts of a call that do not need the values of the futures in it. The arguments are a snapshot.

        Args:
            fn, args, kwargs, retry_on: as for `encode_call`, which has failed.

        Returns:
            The call; None if no part of it is a future, or the serializer is the user's object.

        Raises:
            CallSerializationError: another part of the call cannot travel.
        """
        if self._format.custom is not None:
            return None
        # Imported here, because most programs do not need it.
        from dragonfly_executor.serialization.pending_call import FutureNumbers, encode_pending

        call = (fn, args, kwargs, retry_on) if retry_on else (fn, args, kwargs)
        encoded = encode_pending(call, FutureNumbers(self.contents), self._format, self._main)
        if encoded is None:
            return None
        pending, pickler = encoded
        self._note_lasting(pickler)
        return pending

    def complete(self, pending: PendingCall, values: Mapping[int, SharedContent]) -> list[Buffer]:
        """Return the payload of a call, as `encode_call` does.

        Args:
            pending: the call.
            values: the values of the futures in it, by the futures' numbers.
        """
        shared = pending.all_shared(values)
        names = pending.names.union(*[content.names for content in shared.values()])
        flags, definitions, large, needed = self._main.needed(names, self._format.flags)
        return self._packer.pack(flags, definitions, pending.body, pending.buffers, large, needed | shared)

    def keep(self, parts: Sequence[Received]) -> Sequence[Received]:
        """Return the pieces of an encoded call in a form that may be kept: a snapshot of its arguments.

        Raises:
            CallSerializationError: there is no memory for the snapshot.
        """
        return self._packer.keep(parts)

    def travel_from_slot(self, version_step: float, refer: Callable[[Any, list[object]], Any]) -> None:
        """Encode calls in a slot; see `child_codec`.

        Args:
            version_step: difference between the versions of definitions.
            refer: returns the reduction of an object of multiprocessing.
        """
        self._main.version_step = version_step
        self._format.refer = refer

    def close(self) -> None:
        """Free the contents that runners get once: no runner is left, or this is a forked child of the process."""
        self.contents.close()
        self._packer.forget()

    def encode_shared(self, value: Any) -> EncodedObject:
        """Encode an object that is to be shared. Large pieces are views of the object, so copy them at once.

        Raises:
            CallSerializationError: the object cannot be pickled; the text says which part.
            SharedObjectError: the pool has a serializer object of its own.
        """
        # Imported for the first such object.
        from dragonfly_executor.serialization.shared_encoding import encode_shared

        encoded, pickler = encode_shared(value, self._format, self._main, self._environment, self._packer.flags)
        self._note_lasting(pickler)
        return encoded

    def forwarded(self, data: Received) -> EncodedObject | None:
        """Return the result of a slot as an object that is to be shared, unopened. Copy it at once.

        Returns:
            The object; None if another slot cannot open it as it is.
        """
        # Imported for the first value of a future among arguments.
        from dragonfly_executor.serialization.unopened_value import is_portable

        if self._packer.flags or self._format.custom is not None or not is_portable(data):
            return None
        return EncodedObject(self._main, [memoryview(data)], _NO_NAMES, {})

    def decode_result(self, data: Received) -> Any:
        """Decode the value that a slot sent.

        Parts of the value may be views of ``data``, so the caller must not use ``data`` again.

        Raises:
            ResultDeserializationError: the value cannot be opened here; the cause says why.
        """
        try:
            if data[0] == PICKLE:
                return large_unpickler.loads(data)
            return self._format.open_payload(data)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # __setstate__ is user code, and may even exit
            size = len(data)
            what = f"the result, of {size} bytes," if isinstance(exc, MemoryError) else "the result"
            text = f"{what} cannot be unpickled: {exceptions.one_line(exc)}"
            raise errors.ResultDeserializationError(text, size) from exc

    def decode_error(self, data: Received) -> BaseException:
        """Decode the exception that a slot sent, or a stand-in for it. Its cause is the slot's traceback."""
        return exceptions.decode(data, self._format.open_payload)

    def setup(self) -> bytes:
        """Return the setup of a slot on this machine: import path, directory, script, serializer.

        Raises:
            CallSerializationError: the serializer object itself cannot travel.
        """
        return slot_setup.here(self._environment, self._serializer())

    def setup_elsewhere(self, main: dict[str, Any], *, same_image: bool = False, same_directory: bool = False) -> bytes:
        """Return the setup of a slot that does not see this machine's files.

        Args:
            main, same_image, same_directory: see `slot_setup.elsewhere`.

        Raises:
            CallSerializationError: the serializer object itself cannot travel.
        """
        return slot_setup.elsewhere(self._environment, self._serializer(), main, same_image, same_directory)

    def _serializer(self) -> dict[str, Any]:
        """Return what a slot's setup says about the serializer."""
        custom = self._format.custom
        if custom is None:
            return {"serializer": self._format.name, "custom": None}
        plain = CallCodec(script_travels=self._script_travels)
        return {"serializer": None, "custom": join(plain.encode_call(_same, (custom,), {}))}

    def _plain_call(self, call: tuple[Any, ...]) -> list[Buffer]:
        """Encode a call of an importable function: with plain pickle, if the rest needs no more."""
        environment = self._environment
        try:
            if (
                type(call[0]) is FunctionType
                and len(call) == 3
                and (not call[2] or are_small(call[2].values()))
                and (ATOMS.issuperset(map(type, call[1])) or are_small(call[1]))
            ):
                data = pickle.dumps(call, 5)
                if len(environment.marks) == 1 and MARK not in data and not environment.path:
                    self.references.note(call[0])
                    return [data]
                sink, buffers = Sink([data]), Buffers(self._format.least_buffer)
            else:
                sink, buffers = Sink(), Buffers(self._format.least_buffer)
                Pickler(sink, 5, buffer_callback=buffers.add).dump(call)
        except Exception:  # the call needs more than pickle, or fails below as well, with the same error
            return self._any_call(call)
        if environment.path or sink.mentions(environment.plain_marks):
            return self._any_call(call)
        if buffers.views:
            return self._packer.pack(0, b"", sink, buffers.views, [], {}, lambda: self._carried(call))
        return [sink[0]] if len(sink) == 1 and type(sink[0]) is bytes else self._packer.plain(sink)

    def _main_call(self, call: tuple[Any, ...]) -> list[Buffer]:
        """Encode a call of a function in ``__main__``: by the function's name, if the rest needs only plain pickle."""
        name = self._main.name_of(call[0])
        # Objects of the script's own classes refer to __main__, so a plain pickle of them is not enough.
        simple = name is not None and not any(type(argument).__module__ in MAIN_NAMES for argument in call[1])
        plain = self._format.plain((name, *call[1:]), self._environment.plain_marks) if simple else None
        if name is None or plain is None:
            return self._any_call(call)
        body, buffers = plain
        definitions, large, shared = self._main.definitions(frozenset((name.partition(".")[0],)))
        imported = self._main.script is not None
        if imported:
            self._main.needs_script = True
        if imported and not definitions and not buffers.views and not self._environment.path:
            self.references.note(call[0])
            return [_MAIN_CALL + body[0]] if len(body) == 1 else self._packer.plain([_MAIN_CALL, *body])
        flags = BY_NAME | (NEEDS_MAIN if imported else 0)
        return self._packer.pack(flags, definitions, body, buffers.views, large, shared)

    def _function_call(self, function: FunctionType, call: tuple[Any, ...]) -> list[Buffer] | None:
        """Encode a call of a function by value: None if the rest needs more than plain pickle."""
        environment = self._environment
        home, known = home_in_call(function, self._main, environment.importable)
        written = self._format.codes[function.__code__]
        body = function_body(written, function, home, call, self._format, environment.plain_marks) if known else None
        if body is None:
            return None
        if self._on_code is not None:
            self._on_code([(written.code, function.__globals__.get("__package__") or "")])
        flags, definitions, large, shared = self._main.needed(written.names if home is None else _NO_NAMES, BY_CODE)
        pieces, buffers = body
        return self._packer.pack(flags, definitions, pieces, buffers, large, shared, lambda: self._carried(call))

    def _any_call(self, call: tuple[Any, ...]) -> list[Buffer]:
        sink, buffers, pickler = self._format.tracked(call, self._main)
        self._code_travels(pickler)
        flags, definitions, large, shared = self._main.needed(
            frozenset(pickler.hard | pickler.soft), self._format.flags
        )
        shared |= pickler.shared
        parts = self._packer.pack(flags, definitions, sink, buffers.views, large, shared, lambda: self._carried(call))
        return holding_objects(parts, pickler.held) if pickler.held else parts

    @property
    def needs_script(self) -> bool:
        """True if a call that was encoded so far needs the script to be imported."""
        return self._main.needs_script

    @property
    def objects(self) -> ObjectRegistry:
        """Return the objects of multiprocessing that calls refer to."""
        if self._objects is None:
            # Imported for the first such object. Two threads may come here at once, and get one registry.
            from dragonfly_executor.serialization.object_registry import ObjectRegistry

            found: ObjectRegistry = vars(self).setdefault("_first_objects", ObjectRegistry())
            self._objects = found
        return self._objects

    def _refer_to_object(self, found: Any, held: list[object]) -> Any:
        """Return the reduction of an object of multiprocessing: a reference by its number."""
        return self.objects.reduced(found, held)

    def _carried(self, call: tuple[Any, ...]) -> int:
        """Return how many of a call's buffers belong to its function. They come before those of the arguments."""
        fn = function_of(call)
        try:
            return len(self._format.tracked(fn, self._main)[1].views)
        except KeyboardInterrupt:
            raise
        except BaseException:  # the user's own code, which has pickled the call a moment ago
            return 0

    def _custom_call(self, call: tuple[Any, ...]) -> list[Buffer]:
        body = bytes(self._format.custom.dumps(call))
        flags = self._format.flags
        if MARK in body and self._main.script is not None:
            self._main.needs_script = True
            flags |= NEEDS_MAIN
        return self._packer.pack(flags, b"", [body], [], [], {})

    def call_error(
        self, error: BaseException, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> errors.CallSerializationError:
        """Return the error of a call that could not be pickled, because of `error`. Its text names the part."""
        return errors.CallSerializationError(exceptions.call_error_text(fn, args, kwargs, error, self._try_pickle))

    def _try_pickle(self, value: Any) -> object:
        """Pickle a part of a call alone. Raise if that fails."""
        if self._format.custom is not None:
            return self._format.custom.dumps(value)
        return self._format.tracked(value, self._main)

    def _define(self, values: Any, owners: frozenset[str]) -> tuple[list[Buffer], *Names]:
        sink, _, pickler = self._format.tracked(values, self._main, owners, inline=True)
        self._note_lasting(pickler)
        return flat(sink), pickler.hard, pickler.soft, pickler.attributes, pickler.shared

    def _note_lasting(self, pickler: NameTracking) -> None:
        """Note what the pickle of something that outlives a call refers to."""
        self._code_travels(pickler)
        self._lasting_objects += pickler.held

    def _code_travels(self, pickler: NameTracking) -> None:
        if self._on_code is not None and pickler.codes:
            self._on_code(pickler.codes)


def _same(value: Any) -> Any:
    return value
