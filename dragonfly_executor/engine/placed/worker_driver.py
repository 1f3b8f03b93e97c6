"""`WorkerDriver`: one placed worker in its parent: its call, its restarts, and its end."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.core.calls import CallLimits
from dragonfly_executor.core.events import CancelRequested
from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.engine.future import Future
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.engine.placed.method_call import MethodCall, MethodContext
from dragonfly_executor.engine.placed.method_dispatch import MethodDispatch
from dragonfly_executor.engine.placed.method_frames import WorkerLink
from dragonfly_executor.engine.placed.method_inbox import MethodInbox
from dragonfly_executor.engine.placed.placed_call import PlacedCall
from dragonfly_executor.engine.placed.restart_policy import RestartPolicy
from dragonfly_executor.engine.placed.served_worker import ServedWorker
from dragonfly_executor.engine.placed.worker_errors import LostWorker, StoppedWorker, another_run_helps, failure_of
from dragonfly_executor.protocol.placed_messages import NUMBER, ParentSays
from dragonfly_executor.serialization.remote_object import StoreReference, release_held
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    from dragonfly_executor.core.calls import Payload
    from dragonfly_executor.engine.context import FutureContext, WorkerContext
    from dragonfly_executor.engine.objects.request import Session
    from dragonfly_executor.serialization.object_registry import ServedEntry
    from dragonfly_executor.serialization.pending_call import PendingCall

    EncodedPart: TypeAlias = tuple[Payload, PendingCall | None]
    """The encoded call of a worker or a method. If it has to wait for futures, the second part is that call."""


class WorkerDriver:
    """One worker. Any thread may call the methods of the first part; the others belong to the engine thread.

    Args:
        engine: the pool's.
        name: the worker's name, for people.
        concurrency: number of methods that run at once.
        restarts: whether it begins again.
        limits: the limits of its call.

    Attributes:
        ready: done once the worker's object is made, or its process is started: the value is the process id.
        ended: done once the worker has ended for good: the value of its call, otherwise its error.
        returns_value: whether its call returns a value: it is a process.
    """

    def __init__(
        self, engine: WorkerContext, name: str, concurrency: int, restarts: RestartPolicy, limits: CallLimits
    ) -> None:
        self._engine = engine
        self.name = name
        self._restarts = restarts
        self._limits = limits
        self._payload: Payload | None = None
        self._inbox = MethodInbox(engine, self._take)
        # Its attributes are read-only, and those of the protocol may be set.
        context: Any = MethodContext(engine, self._cancelled)
        self._context: FutureContext = context
        self.ready: Future[Any] = Future(self._context)
        self.ended: Future[Any] = Future(self._context)
        for future in (self.ready, self.ended):
            future.set_running_or_notify_cancel()  # so that no task that awaits it cancels it
        self._methods = MethodDispatch(engine, name, concurrency, self._check_end, self._end_slot)
        self._served = ServedWorker(self, self._methods)
        self.entry: ServedEntry = engine.codec.objects.add("PlacedWorker", self, self._served)
        self._call: PlacedCall | None = None
        self._link: WorkerLink | None = None
        self._made_at: float | None = None
        self._cause: object = None
        """The reason for ending the worker, if it does not end by itself: an exception or a text."""
        self._exit_status = 0
        """The status with which the process has ended; 0 for a worker that is an object."""
        self.returns_value = False
        self._is_stopping = False

    # -- any thread ----------------------------------------------------------------------------------------------------

    def begin(self, encoded: EncodedPart) -> None:
        """Submit the worker's call.

        Args:
            encoded: the encoded call.

        Raises:
            RuntimeError: the pool is shut down.
        """
        payload, pending = encoded
        self._payload = payload if pending is None else None
        call, wait = self._new_call(), None
        if pending is not None:
            from dragonfly_executor.engine.placed.dependent_methods import wait_of_worker

            wait = wait_of_worker(self._engine, pending, self, call)
        # First, so that a shutdown that comes now sees the worker, if it sees its call.
        self._engine.at_shut_down.append(self.pool_ends)
        try:
            self._engine.accept((call,))
        except BaseException:
            self._engine.at_shut_down.remove(self.pool_ends)
            raise
        if wait is not None:
            wait.begin()

    def submit(
        self,
        name: str,
        encoded: EncodedPart,
        limits: CallLimits,
        lease: Callable[..., Any] | None,
        kept: object,
    ) -> Future[Any]:
        """Accept a method call, and return its future.

        Args:
            name: the name of the method.
            encoded: the encoded call.
            limits: its limits.
            lease: keeps the objects of the result that stay in the slot, and opens the result; None to keep none.
            kept: objects that live until the call is settled.

        Raises:
            WorkerLostError: the worker has ended.
            RuntimeError: it was stopped, or its pool was shut down.
        """
        future: Future[Any] = Future(self._context)
        future.cancels_running = False
        payload, pending = encoded
        call = MethodCall(name, payload, limits, future)
        made: Any = call
        future.call = made
        call.lease, call.kept = lease, kept
        call.has_arguments = pending is None
        self._inbox.accept(call)
        if pending is not None:
            from dragonfly_executor.engine.placed.dependent_methods import wait_for_method

            wait_for_method(self._engine, pending, self, call)
        return future

    def complete(self, payload: Payload) -> None:
        """See `dependent_methods.WorkerOfCalls`."""
        self._payload = payload

    def change_methods(self, change: Callable[[MethodDispatch], object]) -> None:
        """See `dependent_methods.WorkerOfCalls`."""
        self._engine.on_thread(lambda _: self._change_methods(change))

    def check_open(self) -> None:
        """Raise the error that a method call would raise now."""
        self._inbox.check_open()

    def stop(self) -> None:
        """Accept no more calls, and end the worker when those before have ended. Returns at once."""
        self._engine.on_thread(lambda _: self._stop())

    def kill(self) -> None:
        """End the worker at once. Returns at once."""
        self._engine.on_thread(lambda _: self._kill("it was killed"))

    def signal(self, number: int) -> None:
        """Send a signal to the process that was placed."""
        self._engine.on_thread(lambda _: self._signal(number))

    def _cancelled(self, calls: Sequence[MethodCall]) -> None:
        self.change_methods(lambda methods: methods.drop(calls))

    # -- the engine thread: calls --------------------------------------------------------------------------------------

    def _take(self) -> None:
        for call in self._inbox.take_all():
            if self._inbox.refusal is not None:
                call.settle(self._inbox.refusal())
            else:
                self._methods.add(call)
        self._methods.send()
        self._engine.wakers.flush()

    def _let_go(self, call_id: int, numbers: tuple[int, ...]) -> None:
        """Let the slot go of objects. A finalizer calls this, on any thread."""
        self._engine.on_thread(lambda _: self._release(call_id, numbers))

    def _release(self, call_id: int, numbers: tuple[int, ...]) -> None:
        if self._call is None or self._call.id != call_id or self._is_stopping:
            return
        # As a method call, because calls before it may still use the objects. All of these were taken from the inbox.
        parts = self._engine.codec.encode_call(release_held, (StoreReference(), numbers), {}, ())
        call = MethodCall("release", b"".join(parts), CallLimits(), Future(self._context))
        self._methods.add(call)
        self._methods.send()

    def _change_methods(self, change: Callable[[MethodDispatch], object]) -> None:
        self._take()
        change(self._methods)
        self._engine.wakers.flush()

    # -- the engine thread: what the slot says -------------------------------------------------------------------------

    def is_current(self, session: Session) -> bool:
        """Return whether this slot has the worker now."""
        return self._link is not None and self._link.session is session

    def opened(self, session: Session, token: int, call_id: int) -> None:
        """See `served_worker.SlotReports`."""
        # A slot that is about to be killed may still begin with the call before this one.
        if self._call is not None and self._call.id == call_id:
            self._link = WorkerLink(session, token)

    def made(self, pid: int | None) -> None:
        """See `served_worker.SlotReports`."""
        if self._link is None or self._made_at is not None:
            return
        self._made_at = self._engine.loop.time()
        if not self.ready.done():
            self.ready.set_result(pid)
        self._methods.connect(self._link)
        self._engine.wakers.flush()
        self._check_end()

    def exited(self, status: int) -> None:
        """See `served_worker.SlotReports`."""
        self._exit_status = status

    def method_ended(self, number: int, flags: int, seconds: float, payload: Any, stay: tuple[int, ...]) -> None:
        """See `served_worker.SlotReports`."""
        call = self._methods.queue.find(number) if stay else None
        codec: Any = None
        if call is not None and call.lease is not None and self._call is not None:
            codec = call.lease(self._call.id, stay, self._engine.codec, self._let_go)
        self._methods.ended(number, flags, seconds, payload, codec)
        self._engine.wakers.flush()

    # -- the engine thread: the worker's call --------------------------------------------------------------------------

    def _new_call(self) -> PlacedCall:
        call = PlacedCall(next(self._engine.ids), self._payload or b"", self, self._limits, self.name)
        self._call = call
        return call

    def call_has_ended(self, call: PlacedCall, outcome: object) -> None:
        """See `placed_call.CallOwner`."""
        if call is not self._call:
            return
        served = 0.0 if self._made_at is None else self._engine.loop.time() - self._made_at
        # The results of methods come before the report of a slot's death. A runner's death may lose some.
        in_order = isinstance(outcome, errors.RunnerLostError) and outcome.slot_pid is not None
        doubtful = self._methods.disconnect(in_order=in_order)
        self._call = self._link = self._made_at = None
        failure = failure_of(outcome, is_stopping=self._is_stopping) if self._cause is None else self._cause
        failed = failure is not None or self._exit_status != 0
        may_restart = self._payload is not None and not self._is_stopping and another_run_helps(outcome)
        pause = self._restarts.pause(failed=failed, served=served) if may_restart else None
        self._exit_status = 0
        again = [each for each in doubtful if pause is not None and each.attempt <= each.limits.retries]
        lost = LostWorker(self.name, failure)
        for each in doubtful:
            if each not in again:
                each.settle(lost.settled(may_have_started=True))
        self._methods.begin_again(again)
        self._cause = None
        if pause is None:
            self._finish(failure, outcome)
        else:
            self._engine.loop.call_later(pause, self._begin_again)

    def _begin_again(self) -> None:
        if self._call is not None or self._inbox.refusal is not None:
            return
        if self._is_stopping and self._methods.is_idle:
            self._finish(None)
            return
        call = self._new_call()
        try:
            self._engine.append((call,))
        except Exception as error:  # the pool is shut down, or broken
            self._call = None
            self._finish(error)

    # -- the engine thread: the end ------------------------------------------------------------------------------------

    def pool_ends(self, mode: ShutdownMode) -> None:
        """End the worker with its pool, as the mode says: all calls finish, or only the begun ones, or none."""
        if mode == ShutdownMode.KILL:
            self._kill("its pool was terminated")
            return
        self._stop()
        if mode == ShutdownMode.CANCEL_QUEUED:
            self._methods.cancel_waiting()
            self._check_end()

    def _stop(self) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        self._take()
        self._inbox.close(StoppedWorker(self.name).error)
        # A call that was appended just before that: its thread did not see the refusal.
        for call in self._inbox.take_all():
            self._methods.add(call)
        self._methods.send()
        self._check_end()

    def _check_end(self) -> None:
        """End the worker if it was stopped and no call is left."""
        if not self._is_stopping or not self._methods.is_idle:
            return
        if self._made_at is not None and self._link is not None:
            self._link.tell(ParentSays.STOP)
        elif self._call is not None:
            # Nothing needs the object any more.
            self._cancel_call()
        else:
            self._finish(None)

    def _cancel_call(self) -> None:
        if self._call is not None:
            self._engine.handle(CancelRequested((self._call.id,)))

    def _end_slot(self, error: Exception) -> None:
        """End the slot with the worker, because of a method that must not go on."""
        self._cause = error
        self._cancel_call()

    def _kill(self, why: str) -> None:
        if self.ended.done():
            return
        self._is_stopping = True
        self._inbox.close(LostWorker(self.name, why).error)
        self._cause = why
        if self._call is not None:
            self._cancel_call()
        else:
            self._finish(why)

    @property
    def state(self) -> str:
        """The state in one word, for people: "waiting", "ready", "restarting" or "ended"."""
        if self.ended.done():
            return "ended"
        if self._made_at is not None:
            return "ready"
        return "restarting" if self.ready.done() else "waiting"

    def _signal(self, number: int) -> None:
        if self._link is not None:
            self._link.tell(ParentSays.SIGNAL, NUMBER.pack(number))

    def _finish(self, failure: object, outcome: object = None) -> None:
        """End for good.

        Args:
            failure: why, if the worker has not ended well.
            outcome: the outcome of its call, if that has ended well.
        """
        if self.ended.done():
            return
        end = StoppedWorker(self.name) if failure is None else LostWorker(self.name, failure)
        self._inbox.close(end.error)
        for call in (*self._methods.take_all(), *self._inbox.take_all()):
            call.settle(end.settled(may_have_started=False))
        if not self.ready.done():
            self.ready.settle(end.settled(may_have_started=True))
        if failure is None and isinstance(outcome, Outcome):
            self.ended.settle(outcome)
        elif failure is None and self.returns_value:
            self.ended.settle(LostWorker(self.name, "it was stopped before it began").settled(may_have_started=False))
        elif failure is None:
            self.ended.set_result(None)
        else:
            self.ended.settle(end.settled(may_have_started=True))
        self._engine.at_shut_down.remove(self.pool_ends)
        self._payload = None
        self._engine.wakers.flush()
