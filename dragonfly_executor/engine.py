"""The parent's driver: one thread that owns all of a pool's state, feeds the core, and has done what it decides."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Container, Sequence
from itertools import count

from dragonfly_executor import errors, reports
from dragonfly_executor.core import actions, events
from dragonfly_executor.core.ledger import Call, CallLimits
from dragonfly_executor.core.machine import Machine, PoolLimits
from dragonfly_executor.future import Future
from dragonfly_executor.lifecycle import ForkGuard, watch_exit
from dragonfly_executor.narrator import Narrator
from dragonfly_executor.outputs import Outputs
from dragonfly_executor.performer import Performer, broken_by, fail_each, settle
from dragonfly_executor.questions import Questions
from dragonfly_executor.runner_link import RunnerLink
from dragonfly_executor.runners import Runners
from dragonfly_executor.threads import Crew
from dragonfly_executor.transfers import sendable
from dragonfly_executor.transport.loop import Loop, Timer
from dragonfly_executor.versions import usable_cpus

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.core.stats import PoolStats
    from dragonfly_executor.options import PoolOptions
    from dragonfly_executor.payload import CallCodec
    from dragonfly_executor.runner_link import RunnerLink
    from dragonfly_executor.sync import Keeper
    from dragonfly_executor.transport.link import Buffer

    T = TypeVar("T")

JOIN_PATIENCE = 5.0
"""Seconds after which a thread that does not end is complained about."""


class Engine:
    """Runs a pool's calls.

    `submit`, `cancel`, `post`, `ask` and `shut_down` may be called from any thread; everything else belongs to the
    engine thread, which starts with the first submit, or with `start`.
    """

    def __init__(
        self,
        options: PoolOptions,
        limits: PoolLimits,
        backend: Backend,
        codec: CallCodec,
        keeper: Keeper | None = None,
    ) -> None:
        self.options = options
        self.codec = codec
        self._keeper = keeper
        """Knows what of this machine's files runners need; None where they see them."""
        self.forked = False
        self.unlinked: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        """Calls that outlive an interrupt of whoever waits for them."""
        self._backend = backend
        self._machine = Machine(limits)
        # Reentrant: a garbage collection inside it may shut this very pool down.
        self._lock = threading.RLock()
        self._inbox: deque[Call] = deque()
        self._inbox_is_due = False
        self._taken: list[Call] = []
        self._untold: list[Call] = []
        self._questions = Questions(self._machine)
        self._refusal: str | None = None
        self._failure: Exception | None = None
        self._ids = count(1)
        self._may_linger = usable_cpus() > 1
        self._initializer = self._encode_initializer()
        self._thread: threading.Thread | None = None
        self._thread_id = 0
        self._timer: Timer | None = None
        self._turn_is_due = False
        self._loop: Loop
        self._callbacks: Crew
        self._runners: Runners
        self._narrator: Narrator
        self._performer: Performer
        self._do: dict[type, Callable[[Any], None]]
        self.outputs: Outputs
        ForkGuard.of_this_process().add(self)

    def _encode_initializer(self) -> bytes:
        if self.options.initializer is None:
            return b""
        return b"".join(self.codec.encode_call(self.options.initializer, tuple(self.options.initargs), {}))

    # -- from any thread ----------------------------------------------------------------------------------------------

    def submit(self, parts: Sequence[Buffer], limits: CallLimits, *, cancel_running: bool = True) -> Future[Any]:
        """Accept a call. Without `cancel_running` its future cannot be cancelled once it was handed to a runner.

        Raises:
            RuntimeError: the pool is shut down, or broken (`PoolBrokenError`), or belongs to another process
                (`ForkedExecutorError`).
            FrameTooLargeError: the payload is over ``max_payload``.
        """
        payload = sendable(parts)
        size = len(payload) if isinstance(payload, bytes) else sum(map(len, payload))
        if size > self.options.max_payload:
            raise errors.FrameTooLargeError(
                f"the call's arguments take {size} bytes, and max_payload is {self.options.max_payload}"
            )
        if self._keeper is not None:
            self._keeper.look_again()
        future: Future[Any] = Future(self)
        call = future.call = Call(next(self._ids), payload, future, limits)
        with self._lock:
            self.check_open()
            if self._thread is None:
                self._start_thread()
            if not cancel_running:
                future.cancels_running = False
                self._performer.some_stay = True
            self._inbox.append(call)
            if self._inbox_is_due:
                return future
            self._inbox_is_due = True
        try:
            self._loop.call_soon_threadsafe(self._take_inbox)
        except BaseException:  # a Ctrl-C: the next submit has to ask again
            self._inbox_is_due = False
            raise
        return future

    def check_open(self) -> None:
        """Raise what a submit would raise now."""
        if self.forked:
            raise errors.ForkedExecutorError("this pool belongs to the process that forked; make a new one here")
        if self._failure is not None:
            # One error for every submit: it must not collect the traceback of each.
            raise self._failure.with_traceback(None)
        if self._refusal is not None:
            raise RuntimeError(self._refusal)
        if self._thread is None and sys.is_finalizing():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def start(self) -> None:
        """Start the thread before the first submit, as a pool with ``min`` runners does."""
        with self._lock:
            if self._thread is None and self._refusal is None:
                self._start_thread()
        self.post(events.Tick())

    def cancel(self, call: Call) -> None:
        """Stop a call whose future was cancelled."""
        if not self.forked:
            self.post(events.CancelRequested((call.id,)))

    def cancel_all(self, *, but: Container[Any]) -> None:
        """Cancel every call that is not done, except those whose futures are in `but`."""
        # The tokens are read here: there may be a million of them, and the engine has other things to do.
        for call in self.ask(lambda machine: machine.unsettled()):
            future = call.token
            if isinstance(future, Future) and future not in but:
                future.cancel()

    def post(self, event: object) -> None:
        """Hand the core an event."""
        # In a forked child the loop's descriptors are closed, and their numbers may be somebody else's.
        if self._thread is not None and not self.forked:
            self._loop.call_soon_threadsafe(lambda: self.handle(event))

    def ask(self, question: Callable[[Machine], T]) -> T:
        """The answer to a question about the pool's state, given on the engine thread."""
        if self._thread is None or self.forked or threading.get_ident() == self._thread_id:
            return question(self._machine)
        return self._questions.ask(self._loop, question)

    def stats(self) -> PoolStats:
        """How the pool stands."""
        return self.ask(lambda machine: machine.stats((Loop if self._thread is None else self._loop).time()))

    def deferred(self, callback: Callable[[Any], object]) -> Callable[[Any], object]:
        """The callback, made to run on the callback thread where the engine thread would run it."""

        def run(future: Any) -> object:
            if threading.get_ident() != self._thread_id:
                return callback(future)
            self._callbacks.run(callback, future)
            return None

        return run

    def shut_down(self, mode: events.ShutdownMode, reason: str = "cannot schedule new futures after shutdown") -> None:
        """Accept no more calls and go, the way `mode` says. Returns at once; `join` waits."""
        if self.forked:
            return
        with self._lock:
            if self._refusal is None:
                self._refusal = reason
        if self._thread is not None:
            # A submit that was accepted just before may not have asked for this yet.
            self._loop.call_soon_threadsafe(self._take_inbox)
        self.post(events.ShutdownRequested(mode))

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing of the pool is left: no runner, no thread. Complains about a thread that stays."""
        thread = self._thread
        if thread is None or self.forked or threading.get_ident() == self._thread_id:
            return
        thread.join(timeout)
        if thread.is_alive():
            return
        for left in (*self._runners.join_crews(JOIN_PATIENCE), *self._callbacks.join(JOIN_PATIENCE)):
            self._narrator.complain(f"thread {left} has not ended; what it runs blocks")

    def abandon_in_forked_child(self) -> None:
        """Forget everything without a goodbye: it all belongs to the process that forked."""
        self.forked = True
        if self._thread is None:
            return
        for fd in (*self._runners.descriptors(), *self._loop.descriptors()):
            try:
                os.close(fd)
            except OSError:
                continue  # the parent was just closing it

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _start_thread(self) -> None:
        """All threads are started here, at the first call: at interpreter exit none can be."""
        errors.load()
        name = f"dragonfly-{self.options.name}"
        self._loop = self._backend.make_loop()
        self._narrator = Narrator(self.options, self._machine)
        self._callbacks = Crew(f"{name}-callbacks", 1, self._narrator.callback_failed)
        self._narrator.run_on(self._callbacks)
        on_engine, failed = self._loop.call_soon_threadsafe, self._narrator.callback_failed
        self.outputs = Outputs(self.options.output, self._callbacks, on_engine, self._future_of, failed)
        self._runners = Runners(self, self._backend, self._loop, self._initializer, self._narrator, self._keeper)
        self._performer = Performer(self._loop, self._runners, self.outputs, self._keeper, self._narrator)
        self._do = self._performer.do
        self._thread = threading.Thread(target=self._run, name=f"{name}-engine", daemon=True)
        self._thread.start()
        watch_exit(self)

    def _run(self) -> None:
        self._thread_id = threading.get_ident()
        try:
            self._loop.run()
        except BaseException as error:
            self._collapse(error)
        finally:
            self._callbacks.close()
            self._runners.close_crews()
            self._loop.close()
            self._questions.end()

    def _future_of(self, call_id: int) -> Future[Any] | None:
        call = self._machine.find(call_id)
        return None if call is None else call.token  # type: ignore[return-value]  # the core does not look at it

    def _take_inbox(self) -> None:
        # The flag falls first: a submit after that asks for a pass of its own.
        self._inbox_is_due = False
        calls: list[Call] = []
        inbox = self._inbox
        self._taken = calls
        while inbox:
            calls.append(inbox.popleft())
        if calls:
            self.handle(events.Submitted(calls))
        self._taken = []

    def handle(self, event: Any) -> None:
        """Hand the core an event, on the engine thread, and do what it decides."""
        now = self._loop.time()
        do, settled = self._do, None
        decided = self._machine.handle(event, now)
        try:
            for action in decided:
                if type(action) is actions.Settle:
                    settled = action
                else:
                    do[type(action)](action)
            self._arm_timer(now)
            # One call at a time is somebody who waits for each. With more of them this thread would take processors
            # from the slots, and the interpreter from the callers.
            self._loop.expects_news = self._may_linger and self._machine.in_flight == 1
            # Last: whoever waits for a result also waits for this thread to let go of the interpreter.
            if settled is not None:
                settle(settled)
        except BaseException:
            # The core has done with these calls: they are known from here alone.
            for action in decided:
                if type(action) is actions.Settle:
                    self._untold += [call for call, _ in action.outcomes]
            raise

    def _arm_timer(self, now: float) -> None:
        """See to it that the core is called when it wants to be. A timer that rings early only costs a tick."""
        deadline = self._machine.deadline()
        if deadline is None or (self._timer is not None and self._timer.when <= deadline):
            return
        if deadline <= now:
            # It was too much for one event. Links and heartbeats come first: a timer might be due in this very pass.
            if not self._turn_is_due:
                self._turn_is_due = True
                self._loop.call_soon(self._take_turn)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._tick)

    def _take_turn(self) -> None:
        self._turn_is_due = False
        self.handle(events.Tick())

    def _tick(self) -> None:
        self._timer = None
        self.handle(events.Tick())

    # -- runners ------------------------------------------------------------------------------------------------------

    def runner_answered(self, runner: RunnerLink, said: reports.Said) -> None:
        """Tell the core what a runner said in one read."""
        for event in reports.events_of(runner.id, said, runner.node):
            self.handle(event)
        if said.setup_failure is not None:
            self._setup_failed(*said.setup_failure)
        if said.synced:
            self._runners.synced(runner, said.synced)
        if said.bye:
            self._runners.said_bye(runner)

    def _setup_failed(self, payload: bytes, is_error: bool) -> None:
        """An initializer failed. What it raised is opened on the callback thread: it may be of the user's own type."""

        def open_and_break() -> None:
            """On the callback thread: the error is opened by the user's code."""
            error = reports.initializer_error(self.codec, payload, is_error)
            self._loop.call_soon_threadsafe(lambda: self._break(error))

        self._callbacks.run(open_and_break)

    def _break(self, error: Exception) -> None:
        with self._lock:
            self._failure = self._failure or error
        self.handle(events.PoolBroke(error))

    def _collapse(self, bug: BaseException) -> None:
        """The engine itself has failed: nobody may wait for it, and no runner may stay."""
        error = broken_by(bug)
        with self._lock:
            self._failure = self._failure or error
            left = deque((*self._inbox, *self._taken, *self._machine.unsettled(), *self._untold))
            self._inbox.clear()
        try:
            fail_each(left, error)
        finally:
            try:
                self._runners.abandon()
            finally:
                fail_each(left, error)  # again, if memory was short: now there is more of it
                self._narrator.complain(str(error))
