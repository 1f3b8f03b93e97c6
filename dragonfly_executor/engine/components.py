"""The threads, tables and descriptors of a pool's engine while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from dragonfly_executor.engine import first_runner
from dragonfly_executor.engine.action_runner import ActionRunner
from dragonfly_executor.engine.future import Future
from dragonfly_executor.engine.notifications import Notifications
from dragonfly_executor.engine.output.router import OutputRouter
from dragonfly_executor.engine.runner_links import RunnerLinks
from dragonfly_executor.engine.worker_threads import WorkerThreadGroups
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.dashboard.server import DashboardServer
    from dragonfly_executor.engine.boot.launched_node import LaunchedNode
    from dragonfly_executor.engine.context import CallNotes, EngineContext
    from dragonfly_executor.engine.objects.server import ObjectServer
    from dragonfly_executor.engine.observing.call_events import CallEvents, Observer
    from dragonfly_executor.engine.observing.event_log import EventLog
    from dragonfly_executor.engine.observing.pool_status import PoolStatus
    from dragonfly_executor.engine.observing.status_socket import StatusSocket
    from dragonfly_executor.engine.options import PoolOptions
    from dragonfly_executor.engine.worker_threads import WorkerThreads
    from dragonfly_executor.serialization import CallCodec

STATUS_AFTER = 0.2
"""Seconds after which a pool opens the socket for ``dragonfly status``, so that a short program does not pay for it."""
JOIN_TIMEOUT = 5.0
"""Seconds to wait for a thread before an error is logged."""


class EngineComponents:
    """All threads and descriptors of an engine except its own thread, and their users. All of them exist, or none.

    Args:
        engine, machine: the pool's.
        initializer: the encoded call that each slot runs first.
        launched: the node of the pool's first runner, if it was launched ahead of its boot. If this raises, the caller
            still owns the node.
    """

    def __init__(
        self, engine: EngineContext, machine: Machine, initializer: bytes, launched: LaunchedNode | None = None
    ) -> None:
        options = engine.options
        self._machine = machine
        self._codec = engine.codec
        self._argument_threads: WorkerThreads | None = None
        self._object_server: ObjectServer | None = None
        self._dashboard: DashboardServer | None = None
        self.loop = engine.tiers[0].backend.make_loop()
        self.event_log = self._event_log(options)
        observers = (*options.observers, *((self.event_log.write,) if self.event_log is not None else ()))
        self.notifications = Notifications(options, machine, observers, names_backends=len(engine.tiers) > 1)
        failed = self.notifications.callback_failed
        if options.on_call is not None:
            observers = (options.on_call, *observers)
        self.worker_groups = WorkerThreadGroups(options.name, failed)
        try:
            self.callbacks = self.worker_groups.make("callbacks", 1)
            self.notifications.run_on(self.callbacks)
            self.call_events = self._call_events(options.name, observers) if observers else None
            self.call_notes: list[CallNotes] = [] if self.call_events is None else [self.call_events]
            on_engine = self.loop.call_soon_threadsafe
            self.outputs = OutputRouter(options.output, self.callbacks, on_engine, self._future_of, failed)
            # The runners read these from the engine.
            engine.outputs = self.outputs
            engine.object_server = self.object_server
            self.runner_links = RunnerLinks(
                engine, self.loop, self.worker_groups, initializer, self.notifications, launched
            )
            self._codec.contents.on_freed(lambda: on_engine(self._forget_freed))
            syncs = any(tier.file_snapshot is not None for tier in engine.tiers)
            self._engine = engine
            self._status: PoolStatus | None = None
            self._status_socket: StatusSocket | None = None
            self.action_runner = ActionRunner(
                self.loop, self.runner_links, self.outputs, self.notifications, syncs=syncs
            )
            if options.dashboard:
                self._dashboard = self._start_dashboard(options)
        except BaseException:
            self.undo()
            raise

    def argument_threads(self) -> WorkerThreads:
        """Return the threads that encode the values of futures for calls: not that of the user's callbacks, which may
        wait for such a call.
        """
        if self._argument_threads is None:
            try:
                self._argument_threads = self.worker_groups.make("arguments", 2)
            except (RuntimeError, MemoryError):
                return self.callbacks  # no thread can be started now
        return self._argument_threads

    def object_server(self) -> ObjectServer:
        """Return what serves multiprocessing's objects to slots. Only the engine thread calls this."""
        if self._object_server is None:
            # Imported at the first request of a slot.
            from dragonfly_executor.engine.objects.server import ObjectServer

            self._object_server = ObjectServer(
                self._codec.objects,
                self.worker_groups,
                self.loop.call_soon_threadsafe,
                self._engine,
            )
        return self._object_server

    def expect_questions(self) -> None:
        """Open the socket for ``dragonfly status`` in a moment. Runs on the engine thread."""
        self.loop.call_later(STATUS_AFTER, self._open_status)

    def status(self) -> PoolStatus:
        """Return what answers questions about the pool, on the engine thread."""
        if self._status is None:
            from dragonfly_executor.engine.observing.pool_status import PoolStatus

            parts = self.loop, self.runner_links, self.notifications, self.call_notes
            self._status = PoolStatus(self._engine, self._machine, *parts)
        return self._status

    @property
    def dashboard_url(self) -> str | None:
        """The address of the pool's page; None if it has none."""
        return None if self._dashboard is None else self._dashboard.url

    def _start_dashboard(self, options: PoolOptions) -> DashboardServer:
        # Imported here, because most pools have no page.
        from dragonfly_executor.dashboard.server import DashboardServer
        from dragonfly_executor.dashboard.source import OnePool

        self.status().keep_history()
        source = OnePool(self.status().answer, self.loop.call_soon_threadsafe)
        server = DashboardServer(
            f"dragonfly-{options.name}-dashboard",
            source,
            read_only=options.dashboard == "read-only",
            failed=lambda error: self.notifications.log_error(f"the dashboard has ended: {error!r}"),
        )
        server.start()
        return server

    def _open_status(self) -> None:
        """Open the socket for ``dragonfly status``. If that fails, the pool goes on without it."""
        try:
            from dragonfly_executor.engine.observing.status_socket import StatusSocket

            self._status_socket = StatusSocket(self.loop, self.status().answer)
        except (ImportError, MemoryError, OSError):
            return  # there is no memory or no descriptor for the import
        self._status_socket.open()

    def _event_log(self, options: PoolOptions) -> EventLog | None:
        if options.log_events is None:
            return None
        from dragonfly_executor.engine.observing.event_log import EventLog

        return EventLog(options.log_events, self._warn)

    def _warn(self, text: str) -> None:
        self.notifications.warn(text)

    def _call_events(self, name: str, observers: Sequence[Observer]) -> CallEvents:
        # Imported here, because most pools have no observers.
        from dragonfly_executor.engine.observing.call_events import CallEvents

        failed, clock = self.notifications.callback_failed, self.loop.time
        return CallEvents(name, self._machine, self.callbacks, observers, failed, clock)

    def notes_of_task_calls(self, machine: Machine, runner_of: Callable[[int | None], int | None]) -> list[CallNotes]:
        """Return what notes the steps of calls that share slots: nothing in a pool without observers of calls."""
        if self.call_events is None:
            return []
        from dragonfly_executor.engine.task_slots.task_call_events import TaskCallEvents

        return [TaskCallEvents(self.call_events, machine, runner_of)]

    def _forget_freed(self) -> None:
        """Tell all runners which shared objects were freed."""
        freed = self._codec.contents.take_freed()
        if freed:
            self.runner_links.forget_shared(freed)

    def _future_of(self, call_id: int) -> Future[object] | None:
        call = self._machine.find(call_id)
        return call.token if call is not None and isinstance(call.token, Future) else None

    def read_failure(
        self, codec: CallCodec, payload: bytes, is_error: bool, then: Callable[[Exception], object]
    ) -> None:
        """Open the error of an initializer on the callback thread, because it may be of the user's own type.

        Args:
            codec: opens the error.
            payload, is_error: the report of the slot.
            then: gets the error, on the engine thread.
        """

        def read() -> None:
            """Open the error, on the callback thread."""
            error = first_runner.initializer_error(codec, payload, is_error)
            self.loop.call_soon_threadsafe(lambda: then(error))

        self.callbacks.run(read)

    def undo(self) -> None:
        """End all threads and close the loop: the engine cannot be started."""
        if self._dashboard is not None:
            self._dashboard.close()
        self.worker_groups.close()
        self.worker_groups.join(JOIN_TIMEOUT)
        self.loop.close()

    def close(self) -> None:
        """Let the threads end after their queued jobs. This is one of the last steps of the engine thread."""
        if self._dashboard is not None:
            self._dashboard.close()
        if self._object_server is not None:
            self._object_server.close()
        self._codec.close()
        if self._status_socket is not None:
            self._status_socket.close()
        if self.event_log is not None:
            self.callbacks.run(self.event_log.close)
        self.worker_groups.close()
        self.loop.close()

    def abandon(self) -> None:
        """Close the descriptors in a forked child. They belong to the process that forked."""
        self._codec.close()
        self.loop.abandon()
        if self._status_socket is not None:
            self._status_socket.abandon()
        if self._dashboard is not None:
            self._dashboard.abandon()
        for fd in self.runner_links.descriptors():
            with suppress(OSError):  # the parent was closing it when it forked
                os.close(fd)

    def join(self) -> None:
        """Wait for the threads. Logs an error for each thread that does not end."""
        for left in self.worker_groups.join(JOIN_TIMEOUT):
            self.notifications.log_error(f"thread {left} has not ended: its job still blocks")
        if self._dashboard is not None and not self._dashboard.join(JOIN_TIMEOUT):
            self.notifications.log_error("the thread of the dashboard has not ended")
