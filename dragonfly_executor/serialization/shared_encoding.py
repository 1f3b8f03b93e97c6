"""Pickles objects that runners get once, for many calls."""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.serialization import exceptions
from dragonfly_executor.serialization.layout import pack, views
from dragonfly_executor.serialization.shared_object import EncodedObject
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.serialization.formats import SerializerFormat
    from dragonfly_executor.serialization.import_environment import ImportEnvironment
    from dragonfly_executor.serialization.main_pickler import MainView, NameTracking


def encode_shared(
    value: Any, serializer: SerializerFormat, main: MainView, environment: ImportEnvironment, flags: int
) -> tuple[EncodedObject, NameTracking]:
    """Encode an object that is to be shared. Large pieces are views of the object, so copy them at once.

    Args:
        value: the object.
        serializer: pickles it.
        main: the parent's ``__main__``, which identifies the pool as well.
        environment: the modules and the import path of this process.
        flags: flags of the box, besides those of the serializer.

    Returns:
        The object, and the pickler with what it refers to.

    Raises:
        CallSerializationError: the object cannot be pickled; the text says which part.
        SharedObjectError: the pool has a serializer object of its own.
    """
    if serializer.custom is not None:
        raise errors.SharedObjectError(
            "a pool with a serializer object of its own cannot share objects, because its dumps() would have to "
            'know handles: use "cloudpickle", "dill" or "pickle"'
        )
    try:
        environment.refresh()
        sink, buffers, pickler = serializer.tracked(value, main)
    except (KeyboardInterrupt, errors.CallSerializationError):
        raise
    except BaseException as exc:  # __reduce__ and __getstate__ are user code
        raise errors.CallSerializationError(
            exceptions.call_error_text(_same, (value,), {}, exc, lambda part: serializer.tracked(part, main))
        ) from exc
    parts = pack(serializer.flags | flags, b"", views(sink), buffers.views, copy=False)
    return EncodedObject(main, parts, frozenset(pickler.hard | pickler.soft), pickler.shared), pickler


def _same(value: Any) -> Any:
    return value
