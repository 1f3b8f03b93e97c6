"""The parent's driver: one thread that owns a pool's state, feeds the core events, and carries out its actions."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from threading import get_native_id

from dragonfly_executor import errors
from dragonfly_executor.core import events
from dragonfly_executor.core.calls import DELAYED, Call, CallLimits
from dragonfly_executor.core.machine import Machine, PoolLimits
from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.engine.action_runner import broken_by, fail_each
from dragonfly_executor.engine.components import EngineComponents
from dragonfly_executor.engine.core_driver import CoreDriver
from dragonfly_executor.engine.core_observers import CoreObservers
from dragonfly_executor.engine.exit_hook import watch_exit
from dragonfly_executor.engine.fork_guard import ForkGuard
from dragonfly_executor.engine.function_calls import FunctionCalls
from dragonfly_executor.engine.future import Future
from dragonfly_executor.engine.latch import Latch
from dragonfly_executor.engine.loop_waker import LoopWakers
from dragonfly_executor.engine.open_streams import OpenStreams
from dragonfly_executor.engine.payload_store import PayloadStore
from dragonfly_executor.engine.queries import Queries
from dragonfly_executor.engine.queue_progress import stats_of
from dragonfly_executor.engine.shared_contents import SharedContents
from dragonfly_executor.engine.shutdown import leave
from dragonfly_executor.engine.startup import EngineStart
from dragonfly_executor.engine.submit_queue import SubmitQueue
from dragonfly_executor.serialization.payload_parts import joined
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future as BaseFuture
    from typing import Any, TypeVar

    from dragonfly_executor.core.stats import PoolStats
    from dragonfly_executor.engine.boot.launched_node import LaunchedNode
    from dragonfly_executor.engine.context import CallNotes
    from dragonfly_executor.engine.objects.server import ObjectServer
    from dragonfly_executor.engine.options import PoolOptions
    from dragonfly_executor.engine.output.router import OutputRouter
    from dragonfly_executor.engine.runner_links import RunnerLinks
    from dragonfly_executor.engine.task_slots.task_engine import TaskEngine
    from dragonfly_executor.engine.task_slots.task_pool import TaskPool
    from dragonfly_executor.engine.tier_settings import TierSettings
    from dragonfly_executor.protocol.call_progress import CallProgress
    from dragonfly_executor.serialization import CallCodec
    from dragonfly_executor.transport.sockets import Buffer

    T = TypeVar("T")


class Engine:
    """The engine of one pool: it runs the pool's calls.

    Any thread may call the methods under "from any thread". All other methods belong to the engine thread, which starts
    with the first submit, or with `start`.

    A Ctrl-C may interrupt a caller between any two steps. So these methods take no lock, and leave no flag that an
    interrupted caller must clear: they append the item to a queue, in one step, and then wake the loop.
    """

    def __init__(
        self,
        options: PoolOptions,
        limits: PoolLimits,
        tiers: tuple[TierSettings, ...],
        codec: CallCodec,
    ) -> None:
        self.options = options
        self.codec = codec
        self.tiers = tiers
        self.shared = SharedContents(codec, options.max_payload, tiers)
        self._file_snapshots = [tier.file_snapshot for tier in tiers if tier.file_snapshot is not None]
        self.forked = False
        self.unlinked: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        """The calls that outlive an interrupt of the thread that waits for them."""
        self.payloads = PayloadStore(codec, options.max_payload, tiers)
        self.function_calls = FunctionCalls(self)
        self.streams = OpenStreams(self)
        self.at_shut_down: list[Callable[[ShutdownMode], object]] = []
        """Called on the engine thread when the pool is shut down: its placed workers, and calls that share slots."""
        self.task_engines: dict[object, TaskEngine] = {}
        """The engines of the calls that share slots, by the conditions of their slots."""
        self.wakers = LoopWakers()
        self._machine = Machine(limits)
        self._submit_queue = SubmitQueue()
        self._taken: list[Call] = []
        self.core_observers = CoreObservers(self, self._submit_queue)
        self._driver = CoreDriver(self._machine, self.core_observers, self.wakers, self.is_open)
        self.handle = self._driver.handle
        """Hands the core an event, on the engine thread, and carries out the actions."""
        self._questions = Queries(self._machine)
        self._modes: list[ShutdownMode] = []
        self._refusal: str | None = None
        self._failure: Exception | None = None
        self.ids: Iterator[int] = count(1)
        function, args = options.initializer, tuple(options.initargs)
        self._initializer = b"" if function is None else joined(codec.encode_call(function, args, {}))
        # Only threads that get no interrupt hold this lock.
        self._lock = threading.Lock()
        self._start = EngineStart(options.name, self.bring_up)
        self._thread: threading.Thread | None = None
        """The engine thread; None until all threads and descriptors exist."""
        self._thread_id = 0
        self._has_ended = Latch()
        self._components: EngineComponents
        self._loop: Loop
        self._runner_links: RunnerLinks
        self.outputs: OutputRouter
        self.object_server: Callable[[], ObjectServer]
        ForkGuard.of_this_process().add(self)

    # -- from any thread ----------------------------------------------------------------------------------------------

    def submit(
        self,
        parts: Sequence[Buffer],
        limits: CallLimits,
        *,
        name: str = "",
        cancel_running: bool = True,
        accept: Callable[[Sequence[Call]], object] | None = None,
        on_progress: Callable[[CallProgress], object] | None = None,
    ) -> Future[Any]:
        """Accept a call.

        Args:
            parts: the encoded call.
            limits: its limits.
            name: the name of its function, for people.
            cancel_running: if False, its future cannot be cancelled once the call was sent to a runner.
            accept: gets the call in place of `Engine.accept`.
            on_progress: called with what the call reports.

        Raises:
            RuntimeError: the pool is shut down, or broken (`PoolBrokenError`), or belongs to another process
                (`ForkedExecutorError`).
            FrameTooLargeError: the payload is larger than ``max_payload``.
            StartError: the engine could not be started.
        """
        payload = self.payloads.snapshot(parts)
        future: Future[Any] = Future(self)
        call = future.call = Call(next(self.ids), payload, future, limits, limits.kind)
        call.name = name
        if not cancel_running:
            future.cancels_running = False
        if on_progress is not None:
            future.on_progress = on_progress
        if accept is not None:
            accept((call,))
            return future
        # Not by `accept`, because this is the hot path.
        if self._thread is None or self._file_snapshots:
            self.prepare()
        self.append((call,))
        return future

    def failed(self, error: Exception) -> Future[Any]:
        """Return the future of a call that failed before it could be submitted."""
        future: Future[Any] = Future(self)
        future.set_exception(error)
        return future

    def accept(self, calls: Sequence[Call]) -> None:
        """Accept new calls, all or none. Raises as `submit` does."""
        if self._thread is None or self._file_snapshots:
            self.prepare()
        self.append(calls)

    def prepare(self) -> None:
        """Scan the files that calls may need, and start the engine, before calls are appended. This may block."""
        for file_snapshot in self._file_snapshots:
            file_snapshot.scan_again()
        if self._thread is None:
            self._start.wait()

    def append(self, calls: Sequence[Call]) -> None:
        """Accept new calls after `prepare`. This does not block."""
        self.check_open()
        try:
            # From this step on, the calls are accepted.
            self._submit_queue.append(calls)
            if self._loop.is_asleep:
                self._driver.caller.thread = get_native_id()
                self._loop.call_soon_threadsafe(self._take_inbox)
            # A thread that closes the pool sets the refusal first. If none is set here, the engine takes these calls.
            if (self._refusal is not None or self._failure is not None) and self._submit_queue.withdraw(calls):
                self.check_open()
        except BaseException:
            self._submit_queue.withdraw(calls)
            raise

    def check_open(self) -> None:
        """Raise the error that a submit would raise now."""
        if self.forked:
            raise errors.ForkedExecutorError(
                "this pool belongs to the process that this one was forked from: make a new pool here"
            )
        if self._failure is not None:
            # All submits raise one error object. Without this it would collect the traceback of each.
            raise self._failure.with_traceback(None)
        if self._refusal is not None:
            raise RuntimeError(self._refusal)
        if self._thread is None and sys.is_finalizing():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def is_open(self) -> bool:
        """Return whether the pool takes calls."""
        return self._refusal is None and self._failure is None

    def start(self) -> None:
        """Start the thread before the first submit, as a pool with ``min`` runners does.

        Raises:
            StartError: the engine could not be started.
        """
        if self._thread is None and self._refusal is None:
            self._start.wait()
        self.post(events.Tick())

    def cancel(self, calls: Sequence[Call], *, running: bool = True) -> None:
        """Stop calls that were cancelled; without `running`, only those that were not sent to a runner yet."""
        self.on_thread(lambda _: self._cancel(calls, running))

    def post_behind_submits(self, event: object) -> None:
        """Hand the core an event, on the engine thread, after all calls that were submitted before."""
        self.on_thread(lambda _: self._handle_behind_submits(event))

    def _handle_behind_submits(self, event: object) -> None:
        self._take_inbox()
        self.handle(event)

    def _cancel(self, calls: Sequence[Call], running: bool) -> None:
        ids = [call.id for call in calls if running or (call.state <= DELAYED and call.attempt == 1)]
        self.handle(events.CancelRequested(tuple(ids)))

    def post(self, event: object) -> None:
        """Hand the core an event, on the engine thread."""
        self.on_thread(lambda _: self.handle(event))

    def on_thread(self, job: Callable[[EngineComponents], object]) -> None:
        """Run a job on the engine thread, if that was started. The job gets the engine's threads and tables."""
        # In a forked child the loop's descriptors are closed, and other files may have their numbers.
        if self._thread is not None and not self.forked:
            self._loop.call_soon_threadsafe(lambda: job(self._components))

    def resize(self, least: int, most: int) -> None:
        """Change the bounds of the number of runners."""
        self.post(events.Resized(least, most))

    def ask(self, question: Callable[[Machine], T]) -> T:
        """Return the answer to a question about the pool's state. The engine thread computes it while it runs."""
        if self._thread is None or self.forked or self.is_this_thread:
            return question(self._machine)
        return self._questions.ask(self._loop, question)

    def stats(self) -> PoolStats:
        """Return the statistics of the pool."""
        if self._thread is None:
            return self.ask(lambda machine: machine.stats(Loop.time()))
        stats = stats_of(self.ask, self._loop.time, self._components.runner_links.boots.waiting_nodes)
        if not self.task_engines:
            return stats
        from dragonfly_executor.engine.task_slots.task_stats import with_task_calls

        return self.ask(lambda machine: with_task_calls(stats, machine, self.task_pools))

    @property
    def task_pools(self) -> list[TaskPool]:
        """The slots that several calls share, by their conditions."""
        return [each.pool for each in tuple(self.task_engines.values())]

    def slots_that_wait(self) -> int:
        """Return how many of the pool's calls are slots for other calls, and wait. On the engine thread."""
        return sum(pool.waiting_slots for pool in self.task_pools)

    def notes_of_calls(self, machine: Machine, runner_of: Callable[[int | None], int | None]) -> list[CallNotes]:
        """Return what notes the steps of the calls of this core, for the pool's observers. On the engine thread."""
        return self._components.notes_of_task_calls(machine, runner_of)

    def unsettled(self) -> list[Call]:
        """Return the calls that have not ended."""
        calls = self.ask(lambda machine: machine.unsettled())
        for each in tuple(self.task_engines.values()):
            calls += each.ask(lambda machine: machine.unsettled())
        return calls

    def report(self) -> dict[str, Any]:
        """Return the state of the pool as one JSON object; see docs/observability.md."""
        if self._thread is None:
            from dragonfly_executor.engine.observing.status_report import pool_report

            return pool_report(self, self._machine, Loop.time())
        return self.ask(lambda _: self._components.status().report())

    @property
    def loop(self) -> Loop:
        """The loop of the engine thread, once that was started."""
        return self._loop

    @property
    def dashboard_url(self) -> str | None:
        """The address of the pool's page; None if it has none, or is not started."""
        return None if self._thread is None else self._components.dashboard_url

    @property
    def is_this_thread(self) -> bool:
        """True on the engine thread, which must not run the user's code."""
        return threading.get_ident() == self._thread_id

    def call_back(self, callback: Callable[[Any], object], future: BaseFuture[Any]) -> None:
        """Run a done callback on the callback thread."""
        if self.is_this_thread:
            self._components.callbacks.run(callback, future)
        else:
            self._loop.call_soon_threadsafe(lambda: self._components.callbacks.run(callback, future))

    def shut_down(self, mode: ShutdownMode, reason: str = "cannot schedule new futures after shutdown") -> None:
        """Accept no more calls and end, the way `mode` says. Returns at once; `join` waits."""
        if self.forked:
            return
        # These two first: a start that is under way checks them at its end.
        self._modes.append(mode)
        self._refusal = self._refusal or reason
        if self._thread is not None:
            self._loop.call_soon_threadsafe(lambda: self._shut_down(mode))

    def join(self, timeout: float | None = None) -> None:
        """Wait until no runner and no thread of the pool is left. Logs an error for a thread that does not end."""
        if self.forked or self.is_this_thread:
            return
        self._start.join()
        thread = self._thread
        if thread is None:
            return
        self.streams.close_abandoned(blocks=True)
        # Not `Thread.join`: before Python 3.13 a thread whose join was interrupted counts as ended.
        if not self._has_ended.wait(timeout):
            return
        thread.join()
        self._components.join()

    @property
    def has_ended(self) -> bool:
        """True if the engine is shut down and its thread has ended, or was never started."""
        return self.forked or (self._has_ended.is_open if self._thread is not None else self._refusal is not None)

    def leave(self, *, interrupted: bool, reason: str = "cannot schedule new futures after shutdown") -> None:
        """Shut down, and wait until nothing of the pool is left; see `shutdown.leave`."""
        leave(self, interrupted=interrupted, reason=reason)

    def abandon_in_forked_child(self) -> None:
        """Close the descriptors in a forked child, and send nothing. They belong to the process that forked."""
        self.forked = True
        self.payloads.abandon()
        if self._thread is not None:
            self._components.abandon()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def bring_up(self, launched: LaunchedNode | None = None) -> None:
        """Start all threads, or none: at interpreter exit no thread can be started. Only an `EngineStart` calls this.

        Args:
            launched: the node of the first runner, if it was launched ahead of its boot. Unless this raises, the caller
                need not stop it.
        """
        with self._lock:
            # Either a shutdown sees that a start is under way, or this start sees that the pool is shut down.
            if self._thread is not None or self._refusal is not None:
                if launched is not None:
                    launched.stop()
                return
            components = self._components = EngineComponents(self, self._machine, self._initializer, launched)
            self._loop, self._runner_links = components.loop, components.runner_links
            self._driver.begin(components)
            self._loop.feed(self._submit_queue, self._take_inbox)
            thread = threading.Thread(target=self._run, name=f"dragonfly-{self.options.name}-engine", daemon=True)
            try:
                thread.start()
            except BaseException:
                components.undo()
                raise
            self._thread = thread
        watch_exit(self)
        for mode in list(self._modes):
            self._loop.call_soon_threadsafe(partial(self._shut_down, mode))

    def _run(self) -> None:
        self._thread_id = threading.get_ident()
        try:
            self._components.expect_questions()
            self._loop.run()
        except BaseException as error:
            self._fail_with_bug(error)
        finally:
            try:
                self._components.close()
                self.payloads.close()
            finally:
                self._questions.end()
                self._has_ended.open()

    def _take_inbox(self) -> None:
        calls: list[Call] = []
        self._taken = calls
        self.core_observers.take(calls)
        if calls:
            self.handle(events.Submitted(calls))
        self._taken = []

    def _shut_down(self, mode: ShutdownMode) -> None:
        # Calls that were appended before are accepted. A later submit sees the refusal and withdraws its call.
        self._take_inbox()
        self._loop.feed((), self._take_inbox)
        for each in tuple(self.at_shut_down):
            each(mode)
        self.handle(events.ShutdownRequested(mode))

    # -- runners ------------------------------------------------------------------------------------------------------

    def setup_failed(self, payload: bytes, is_error: bool) -> None:
        """Break the pool, once the callback thread has opened the error that the initializer raised in a slot."""
        self._components.read_failure(self.codec, payload, is_error, self._break)

    def _break(self, error: Exception) -> None:
        self._failure = self._failure or error
        self.handle(events.PoolBroke(error))

    def _fail_with_bug(self, bug: BaseException) -> None:
        """Fail all calls and release all nodes, because the engine itself has failed."""
        error = broken_by(bug)
        self._failure = self._failure or error
        for each in self.task_engines.values():
            each.fail(error)
        left = deque((*self._taken, *self._machine.unsettled(), *self._driver.untold))
        self._submit_queue.take(left)
        try:
            fail_each(left, error)
            self.wakers.flush()
        finally:
            try:
                self._runner_links.abandon()
            finally:
                fail_each(left, error)  # again, if memory was short: the release has freed some
                self._driver.tell_observers()
                self._components.notifications.log_error(str(error))
