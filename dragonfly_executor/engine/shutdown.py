"""The end of pools: at the end of a ``with`` block, and at interpreter exit."""

from __future__ import annotations

from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.engine.future import Future
from dragonfly_executor.engine.map_call import MapCall
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.engine.context import ShutdownContext


def leave(
    engine: ShutdownContext, *, interrupted: bool, reason: str = "cannot schedule new futures after shutdown"
) -> None:
    """Shut a pool down, and wait until nothing of it is left.

    After a Ctrl-C, calls that are not linked have ``shutdown_timeout`` to finish, and all others are cancelled. A
    Ctrl-C during the wait stops everything.
    """
    try:
        if interrupted:
            # This thread checks the futures: there may be a million of them, and the engine has other work.
            for call in engine.unsettled():
                # None if the call was settled meanwhile.
                future: Any = call.token
                is_special = getattr(future, "is_stream", False) or getattr(future, "is_placed", False)
                can_be_cancelled = isinstance(future, (Future, MapCall)) or is_special
                if can_be_cancelled and future not in engine.unlinked:
                    future.cancel()
        engine.shut_down(ShutdownMode.DRAIN, reason)
        engine.join(engine.options.shutdown_timeout if interrupted else None)
        if interrupted:
            engine.shut_down(ShutdownMode.KILL, reason)
            engine.join()
    except BaseException as error:
        if interrupted or isinstance(error, KeyboardInterrupt):
            engine.shut_down(ShutdownMode.KILL, reason)
            engine.join()
        raise
