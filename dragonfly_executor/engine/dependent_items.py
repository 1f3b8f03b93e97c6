"""Items of a map with futures among their arguments."""

from __future__ import annotations

from copy import copy

from dragonfly_executor.engine.dependent_calls import ArgumentWait, HeldCall
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.engine.context import ArgumentContext
    from dragonfly_executor.engine.map_call import MapCall
    from dragonfly_executor.serialization.pending_call import PendingCall


class HeldItem(HeldCall):
    """The call of an item, or of a chunk of one item."""

    def arguments_failed(self, outcome: object) -> None:
        """See `ArgumentReceiver`."""
        # The item adds a note with its number, which the future of the error must not get.
        super().arguments_failed(copied(outcome) if isinstance(outcome, BaseException) else outcome)


def wait_of_item(engine: ArgumentContext, pending: PendingCall, call: MapCall) -> ArgumentWait:
    """Return the wait of an item's call, which is to be submitted before the wait begins."""
    return ArgumentWait(engine, pending, HeldItem(engine, call))


def copied(error: BaseException) -> BaseException:
    """Return a copy of an error, or the error itself if its class cannot make one. This runs the user's code."""
    try:
        own = copy(error)
        if type(own) is not type(error):
            return error
        notes = getattr(error, "__notes__", None)
        if notes is not None:
            own.__notes__ = [*notes]
    except Exception:
        return error
    own.__cause__, own.__context__ = error.__cause__, error.__context__
    own.__suppress_context__ = error.__suppress_context__
    return own.with_traceback(error.__traceback__)
