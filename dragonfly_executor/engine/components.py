"""What a pool's engine consists of while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from dragonfly_executor.engine.action_runner import Performer
from dragonfly_executor.engine.notifications import Narrator
from dragonfly_executor.engine.output.router import Outputs
from dragonfly_executor.engine.runner_messages import initializer_error
from dragonfly_executor.engine.runner_table import Runners
from dragonfly_executor.engine.worker_threads import Crews

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.future import Future
    from dragonfly_executor.serialization import CallCodec
    from dragonfly_executor.sync import Keeper

JOIN_PATIENCE = 5.0
"""Seconds after which a thread that does not end is complained about."""


class Parts:
    """All threads and descriptors of an engine but its own thread, and who uses them. There are all of them, or none.

    Args:
        engine, backend, machine: whose they are.
        initializer: what each slot runs first, encoded.
        keeper: knows what of this machine's files runners need; None where they see them.
    """

    def __init__(
        self, engine: EngineContext, backend: Backend, machine: Machine, initializer: bytes, keeper: Keeper | None
    ) -> None:
        options = engine.options
        self._machine = machine
        self.loop = backend.make_loop()
        self.narrator = Narrator(options, machine)
        failed = self.narrator.callback_failed
        self.crews = Crews(options.name, failed)
        try:
            self.callbacks = self.crews.make("callbacks", 1)
            self.narrator.run_on(self.callbacks)
            on_engine = self.loop.call_soon_threadsafe
            self.outputs = Outputs(options.output, self.callbacks, on_engine, self._future_of, failed)
            # Runners look for it there.
            engine.outputs = self.outputs
            self.runners = Runners(engine, backend, self.loop, self.crews, initializer, self.narrator, keeper)
            self.performer = Performer(self.loop, self.runners, self.outputs, keeper, self.narrator)
        except BaseException:
            self.undo()
            raise

    def _future_of(self, call_id: int) -> Future[object] | None:
        call = self._machine.find(call_id)
        return None if call is None else call.token  # type: ignore[return-value]  # the core does not look at it

    def read_failure(
        self, codec: CallCodec, payload: bytes, is_error: bool, then: Callable[[Exception], object]
    ) -> None:
        """An initializer failed. What it raised is opened on the callback thread: it may be of the user's own type.

        Args:
            then: is told of it, on the engine thread.
        """

        def read() -> None:
            """On the callback thread."""
            error = initializer_error(codec, payload, is_error)
            self.loop.call_soon_threadsafe(lambda: then(error))

        self.callbacks.run(read)

    def undo(self) -> None:
        """End all of it, before anything has begun: the engine cannot be started."""
        self.crews.close()
        self.crews.join(JOIN_PATIENCE)
        self.loop.close()

    def close(self) -> None:
        """Let the threads end when they have done what is queued. On the engine thread, as its last."""
        self.crews.close()
        self.loop.close()

    def abandon(self) -> None:
        """Close the descriptors in a forked child, to which none of it belongs."""
        self.loop.abandon()
        for fd in self.runners.descriptors():
            with suppress(OSError):  # the parent was just closing it
                os.close(fd)

    def join(self) -> None:
        """Wait for the threads. Complains about one that stays."""
        for left in self.crews.join(JOIN_PATIENCE):
            self.narrator.complain(f"thread {left} has not ended; what it runs blocks")
