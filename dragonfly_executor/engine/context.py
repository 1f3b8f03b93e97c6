"""Protocols for the engine as its parts use it. The parts do not import the engine, so there is no import circle.

Only type checkers load this module.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any, TypeVar

    from dragonfly_executor.core.call_table import Call
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.core.shutdown_mode import ShutdownMode
    from dragonfly_executor.core.stats import PoolStats
    from dragonfly_executor.engine.loop_waker import LoopWakers
    from dragonfly_executor.engine.objects.server import ObjectServer
    from dragonfly_executor.engine.options import PoolOptions
    from dragonfly_executor.engine.output.router import OutputRouter
    from dragonfly_executor.engine.payload_store import PayloadStore
    from dragonfly_executor.engine.shared_contents import SharedContents
    from dragonfly_executor.engine.tier_settings import TierSettings
    from dragonfly_executor.serialization import CallCodec
    from dragonfly_executor.transport.loop import Loop

    T = TypeVar("T")


class EngineContext(Protocol):
    """An engine as its runners and their boots use it. It belongs to the engine thread.

    Attributes:
        options: the pool's options.
        codec: encodes calls and decodes results.
        outputs: routes the output of calls.
        tiers: the pool's backends, in order of preference.
        payloads: keeps the payloads of calls.
        object_server: returns what serves multiprocessing's objects to slots.
    """

    options: PoolOptions
    codec: CallCodec
    outputs: OutputRouter
    tiers: tuple[TierSettings, ...]
    payloads: PayloadStore
    object_server: Callable[[], ObjectServer]
    ids: Iterator[int]
    """The numbers of the next calls."""

    @property
    def task_pools(self) -> Sequence[Any]:
        """The `TaskPool`s of the pool: the slots that several calls share."""
        ...

    def handle(self, event: Any) -> None:
        """Hand the core an event, and carry out the actions."""

    def ask(self, question: Callable[[Machine], T]) -> T:
        """Return the answer to a question about the pool's state."""
        ...

    def cancel(self, calls: Sequence[Call]) -> None:
        """Stop calls."""

    def check_open(self) -> None:
        """Raise the error that a submit would raise now."""

    def setup_failed(self, payload: bytes, is_error: bool) -> None:
        """Break the pool: the initializer failed in a slot."""


class Actions(Protocol):
    """The methods that carry out actions of a core."""

    do: dict[type, Callable[[Any], None]]


class DriverComponents(Protocol):
    """The parts of an engine that the driver of a core uses. It belongs to the engine thread."""

    @property
    def loop(self) -> Loop:
        """The engine's loop."""
        ...

    @property
    def action_runner(self) -> Actions:
        """Carries out actions."""
        ...

    @property
    def call_notes(self) -> Sequence[CallNotes]:
        """Note the steps of calls."""
        ...


class CallNotes(Protocol):
    """An object that notes what each step of the core means for calls, on the engine thread."""

    def note(self, event: object, decided: Sequence[object], now: float) -> None:
        """Note an event of the core, and the actions that it led to. It must not raise. `now`: monotonic seconds."""


class FutureContext(Protocol):
    """An engine as the future of a call uses it, from any thread.

    Attributes:
        options: the pool's options.
        wakers: resume the tasks that wait for calls.
    """

    options: PoolOptions
    wakers: LoopWakers

    @property
    def forked(self) -> bool:
        """True in a process that was forked from the pool's."""
        ...

    @property
    def unlinked(self) -> Container[object]:
        """The futures of calls that outlive an interrupt of what waits for them."""
        ...

    @property
    def is_this_thread(self) -> bool:
        """True on the engine thread."""
        ...

    def cancel(self, calls: Sequence[Call]) -> None:
        """Stop calls whose futures were cancelled."""

    def call_back(self, callback: Callable[[Any], object], future: Future[Any]) -> None:
        """Run a done callback on the callback thread."""


class ArgumentContext(Protocol):
    """An engine as the wait of a call for futures uses it, from any thread.

    Attributes:
        codec: encodes the calls.
        payloads: keeps the payloads of calls.
        shared: encodes the values of futures.
    """

    codec: CallCodec
    payloads: PayloadStore
    shared: SharedContents

    def on_thread(self, job: Callable[[Any], object]) -> None:
        """Run a job on the engine thread, with the `EngineComponents`, if that was started."""

    def post_behind_submits(self, event: object) -> None:
        """Hand the core an event, on the engine thread, after all calls that were submitted before."""


class MapContext(ArgumentContext, Protocol):
    """An engine as the calls of a map use it, from any thread.

    Attributes:
        options: the pool's options.
        ids: the numbers of the next calls.
        wakers: resume the tasks that wait for calls.
    """

    options: PoolOptions
    ids: Iterator[int]
    wakers: LoopWakers

    @property
    def forked(self) -> bool:
        """True in a process that was forked from the pool's."""
        ...

    def accept(self, calls: Sequence[Call]) -> None:
        """Accept new calls, all or none."""

    def cancel(self, calls: Sequence[Call], *, running: bool) -> None:
        """Stop calls that were cancelled."""

    def call_back(self, callback: Callable[[Any], object], future: Any) -> None:
        """Run a callback on the callback thread."""


class QueueBoundContext(Protocol):
    """An engine as the bound on its waiting calls uses it, from any thread.

    Attributes:
        wakers: resume the tasks that wait for room.
    """

    wakers: LoopWakers

    def prepare(self) -> None:
        """Scan the files that calls may need, and start the engine, before calls are appended. This may block."""

    def append(self, calls: Sequence[Call]) -> None:
        """Accept new calls after `prepare`. This does not block."""

    def check_open(self) -> None:
        """Raise the error that a submit would raise now."""

    def post(self, event: object) -> None:
        """Hand the core an event, on the engine thread."""


class RunnerWaitsContext(Protocol):
    """An engine as the waits for its runners use it, from any thread.

    Attributes:
        wakers: resume the tasks that wait for runners.
    """

    wakers: LoopWakers

    def check_open(self) -> None:
        """Raise the error that a submit would raise now."""

    def ask(self, question: Callable[[Machine], T]) -> T:
        """Return the answer to a question about the pool's state."""
        ...

    def stats(self) -> PoolStats:
        """Return the statistics of the pool."""
        ...


class DependentContext(ArgumentContext, FutureContext, Protocol):
    """An engine as submits of calls with futures among their arguments use it, from any thread.

    Attributes:
        ids: the numbers of the next calls.
    """

    ids: Iterator[int]


class CoreObserver(Protocol):
    """An object that reads the core after each event, on the engine thread."""

    def review(self, machine: Machine, *, is_open: bool) -> None:
        """Look at the core. It must not raise. `is_open`: whether the pool still takes calls."""


class ObserversContext(QueueBoundContext, RunnerWaitsContext, Protocol):
    """An engine as the observers of its core use it."""


class StreamsContext(Protocol):
    """The open streams of a pool as one of them uses them, from any thread."""

    def discard(self, stream: Any) -> None:
        """Remove a stream whose call was settled."""

    def tell(self, stream: Any, frame: bytes) -> None:
        """Send a frame to the runner that has the stream's call, if there is one."""

    def close(self, stream: Any) -> None:
        """Have a stream's function stopped."""


class OpenStreamsContext(Protocol):
    """An engine as its open streams use it."""

    def handle(self, event: Any) -> None:
        """Hand the core an event, on the engine thread, and carry out the actions."""

    def on_thread(self, job: Callable[[Any], object]) -> None:
        """Run a job on the engine thread, with the `EngineComponents`, if that was started."""


class StreamContext(Protocol):
    """An engine as the call of a stream uses it, from any thread unless it says otherwise.

    Attributes:
        options: the pool's options.
        ids: the numbers of the next calls.
        forked: True in a process that was forked from the pool's.
        wakers: resume the tasks that wait for items.
    """

    options: PoolOptions
    ids: Iterator[int]
    forked: bool
    wakers: LoopWakers

    @property
    def streams(self) -> StreamsContext:
        """The open streams."""
        ...

    def cancel(self, calls: Sequence[Call], *, running: bool) -> None:
        """Stop calls that were cancelled."""

    def call_back(self, callback: Callable[[Any], object], future: Any) -> None:
        """Run a callback on the callback thread."""


class WorkerContext(ArgumentContext, FutureContext, Protocol):
    """An engine as a placed worker uses it, from any thread unless it says otherwise.

    Attributes:
        ids: the numbers of the next calls.
        at_shut_down: called on the engine thread when the pool is shut down.
    """

    ids: Iterator[int]
    at_shut_down: list[Callable[[ShutdownMode], object]]

    @property
    def loop(self) -> Loop:
        """The loop of the engine thread, once that was started."""
        ...

    def check_open(self) -> None:
        """Raise the error that a submit would raise now."""

    def accept(self, calls: Sequence[Call]) -> None:
        """Accept new calls, all or none."""

    def append(self, calls: Sequence[Call]) -> None:
        """Accept new calls, once the engine was started. This does not block."""

    def on_thread(self, job: Callable[[Any], object]) -> None:
        """Run a job on the engine thread, with the `EngineComponents`, if that was started."""

    def handle(self, event: Any) -> None:
        """Hand the core an event, on the engine thread, and carry out the actions."""


class TaskContext(WorkerContext, Protocol):
    """An engine as calls that share slots use it, from any thread unless it says otherwise.

    Attributes:
        tiers: the pool's backends, in order of preference.
        shared: encodes the values of futures.
    """

    tiers: tuple[TierSettings, ...]
    shared: SharedContents

    @property
    def core_observers(self) -> ObserverList:
        """The observers of the pool's core. On the engine thread."""
        ...

    def prepare(self) -> None:
        """Scan the files that calls may need, and start the engine, before calls are appended. This may block."""

    def is_open(self) -> bool:
        """Return whether the pool takes calls."""
        ...

    def ask(self, question: Callable[[Machine], T]) -> T:
        """Return the answer to a question about the pool's state."""
        ...

    def stats(self) -> PoolStats:
        """Return the statistics of the pool."""
        ...

    def slots_that_wait(self) -> int:
        """Return how many of the pool's calls are slots for other calls, and wait. On the engine thread."""
        ...

    def notes_of_calls(self, machine: Machine, runner_of: Callable[[int | None], int | None]) -> list[CallNotes]:
        """Return what notes the steps of the calls of this core, for the pool's observers. On the engine thread."""
        ...


class ObserverList(Protocol):
    """The observers of a core."""

    present: list[CoreObserver]


class ShutdownContext(Protocol):
    """An engine as the end of a pool, of the interpreter, or of a forked child uses it, from any thread.

    Attributes:
        options: the pool's options.
    """

    options: PoolOptions

    @property
    def unlinked(self) -> Container[object]:
        """The futures of calls that outlive an interrupt of the threads that wait for them."""
        ...

    def unsettled(self) -> list[Call]:
        """Return the calls that have not ended."""
        ...

    def shut_down(self, mode: ShutdownMode, reason: str = ...) -> None:
        """Accept no more calls and end, the way `mode` says. Returns at once."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until no runner and no thread of the pool is left; `timeout` seconds at most."""

    def abandon_in_forked_child(self) -> None:
        """Close the descriptors in a forked child. They belong to the process that forked."""
