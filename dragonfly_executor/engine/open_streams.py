"""`OpenStreams`: the streams whose calls are not settled, and the ways to reach the runners of these calls."""

from __future__ import annotations

import weakref

from dragonfly_executor.core.calls import SETTLED
from dragonfly_executor.core.events import CancelRequested
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.engine.components import EngineComponents
    from dragonfly_executor.engine.context import OpenStreamsContext
    from dragonfly_executor.engine.stream_call import StreamCall


class OpenStreams:
    """The open streams of one pool. Any thread may use it.

    Args:
        engine: the pool's engine.
    """

    def __init__(self, engine: OpenStreamsContext) -> None:
        self._engine = engine
        self._streams: weakref.WeakSet[StreamCall] = weakref.WeakSet()

    def add(self, stream: StreamCall) -> None:
        """Add a stream whose call is about to be submitted."""
        self._streams.add(stream)

    def discard(self, stream: StreamCall) -> None:
        """Remove a stream whose call was settled."""
        self._streams.discard(stream)

    def tell(self, stream: StreamCall, frame: bytes) -> None:
        """Send a frame to the runner that has the stream's call, if there is one."""
        self._engine.on_thread(lambda components: _tell(components, stream, frame))

    def close(self, stream: StreamCall) -> None:
        """Have a stream's function stopped."""

        def stop(components: EngineComponents) -> None:
            """Stop it, on the engine thread."""
            stream.stop(
                lambda frame: _tell(components, stream, frame),
                lambda seconds: self._cancel_later(components, stream, seconds),
            )

        self._engine.on_thread(stop)

    def _cancel_later(self, components: EngineComponents, stream: StreamCall, seconds: float) -> None:
        """Cancel the call after some seconds. A call that has ended by then is not harmed."""
        if seconds:
            components.loop.call_later(seconds, lambda: self._cancel(stream))
        else:
            self._cancel(stream)

    def _cancel(self, stream: StreamCall) -> None:
        self._engine.handle(CancelRequested((stream.id,)))

    def close_abandoned(self, *, blocks: bool) -> None:
        """Close the streams whose items this thread or task took, and the streams of ended threads and tasks.

        Their functions wait for items to be taken, and the caller is about to wait for their calls.

        Args:
            blocks: see `stream_consumers.is_abandoned`.
        """
        if self._streams:
            from dragonfly_executor.engine.stream_consumers import is_abandoned

            for stream in list(self._streams):
                if is_abandoned(stream.consumer, blocks=blocks):
                    stream.close()


def _tell(components: EngineComponents, stream: StreamCall, frame: bytes) -> None:
    """Send a frame to the runner of a stream, on the engine thread."""
    if stream.runner is not None and stream.state is not SETTLED:
        components.runner_links.get(stream.runner).say(frame)
