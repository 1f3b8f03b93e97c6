"""The values of a map's calls, and what an error says about its item."""

from __future__ import annotations

from copy import copy

from dragonfly_executor import errors
from dragonfly_executor.engine.map_call import MapCall
from dragonfly_executor.serialization.map_chunk import name_items
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


def value_of(call: MapCall) -> Any:
    """Return the value of a settled call. An error gets a note that names the item."""
    try:
        return call.take()
    except BaseException as error:
        told = named(error, call.first, call.size)
        if told is error:
            raise
        raise told from error.__cause__


def outcome_of(call: MapCall) -> tuple[Any, BaseException | None]:
    """Return the value of a settled call and None, or None and its error, with a note that names the item."""
    value, error = call.take_outcome()
    return value, None if error is None else named(error, call.first, call.size)


def named(error: BaseException, first: int, size: int) -> BaseException:
    """Return the error with a note that names the item, or the items of the chunk, that it belongs to."""
    if not size:
        return error  # the iterator of the arguments has raised it
    if isinstance(error, errors.DragonflyError) and not isinstance(error, errors.RemoteCallError):
        if isinstance(error, (errors.BudgetExceeded, errors.BootError, errors.PoolBrokenError)):
            return error  # not the fault of an item
        if size > 1 and isinstance(error, (errors.CallSerializationError, errors.ResultSerializationError)):
            return error  # its text names the item
        # A lost runner has one error for all calls that were on it, and only this call must have the note.
        error = copy(error).with_traceback(error.__traceback__)
    elif size > 1:
        return error  # the slot added the item
    name_items(error, first, first + size - 1)
    return error
