"""Protocols for the engine as its parts use it. The parts do not import the engine, so there is no import circle.

Only type checkers load this module.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from concurrent.futures import Future
    from typing import Any, TypeVar
    from weakref import WeakSet

    from dragonfly_executor.core.call_table import Call
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.core.shutdown_mode import ShutdownMode
    from dragonfly_executor.core.stats import PoolStats
    from dragonfly_executor.engine.loop_waker import LoopWaker
    from dragonfly_executor.engine.objects.server import ObjectServer
    from dragonfly_executor.engine.options import PoolOptions
    from dragonfly_executor.engine.output.router import OutputRouter
    from dragonfly_executor.engine.shared_contents import SharedContents
    from dragonfly_executor.engine.shared_memory import SharedSegments
    from dragonfly_executor.engine.tier_settings import TierSettings
    from dragonfly_executor.serialization import CallCodec
    from dragonfly_executor.transport.sockets import Buffer

    T = TypeVar("T")


class EngineContext(Protocol):
    """An engine as its runners and their boots use it. It belongs to the engine thread.

    Attributes:
        options: the pool's options.
        codec: encodes calls and decodes results.
        outputs: routes the output of calls.
        tiers: the pool's backends, in order of preference.
    """

    options: PoolOptions
    codec: CallCodec
    outputs: OutputRouter
    tiers: tuple[TierSettings, ...]

    def handle(self, event: Any) -> None:
        """Hand the core an event, and carry out the actions."""

    def ask(self, question: Callable[[Machine], T]) -> T:
        """Return the answer to a question about the pool's state."""
        ...

    def cancel(self, calls: Sequence[Call]) -> None:
        """Stop calls."""

    def setup_failed(self, payload: bytes, is_error: bool) -> None:
        """Break the pool: the initializer failed in a slot."""

    def shared_memory(self) -> SharedSegments | None:
        """Return the memory that the pool shares with slots on this machine; None if it shares none."""
        ...

    def object_server(self) -> ObjectServer:
        """Return what serves multiprocessing's objects to slots."""
        ...


class FutureContext(Protocol):
    """An engine as the future of a call uses it, from any thread.

    Attributes:
        options: the pool's options.
        forked: True in a process that was forked from the pool's.
    """

    options: PoolOptions
    forked: bool

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

    def waker_of(self, loop: AbstractEventLoop) -> LoopWaker:
        """Return what resumes the tasks of a loop. Only the thread that runs the loop may call this."""
        ...


class MapContext(Protocol):
    """An engine as the calls of a map use it, from any thread.

    Attributes:
        options: the pool's options.
        codec: decodes results.
        ids: the numbers of the next calls.
        forked: True in a process that was forked from the pool's.
    """

    options: PoolOptions
    codec: CallCodec
    ids: Iterator[int]
    forked: bool

    def payload_of(self, parts: Sequence[Buffer]) -> bytes | Sequence[Buffer]:
        """Return an encoded call in the form in which a `Call` keeps it: a snapshot of its arguments."""
        ...

    def accept(self, calls: Sequence[Call]) -> None:
        """Accept new calls, all or none."""

    def cancel(self, calls: Sequence[Call], *, running: bool) -> None:
        """Stop calls that were cancelled."""

    def call_back(self, callback: Callable[[Any], object], future: Any) -> None:
        """Run a callback on the callback thread."""

    def waker_of(self, loop: AbstractEventLoop) -> LoopWaker:
        """Return what resumes the tasks of a loop. Only the thread that runs the loop may call this."""
        ...


class QueueBoundContext(Protocol):
    """An engine as the bound on its waiting calls uses it, from any thread."""

    def prepare(self) -> None:
        """Scan the files that calls may need, and start the engine, before calls are appended. This may block."""

    def append(self, calls: Sequence[Call]) -> None:
        """Accept new calls after `prepare`. This does not block."""

    def check_open(self) -> None:
        """Raise the error that a submit would raise now."""

    def post(self, event: object) -> None:
        """Hand the core an event, on the engine thread."""

    def waker_of(self, loop: AbstractEventLoop) -> LoopWaker:
        """Return what resumes the tasks of a loop. Only the thread that runs the loop may call this."""
        ...


class RunnerWaitsContext(Protocol):
    """An engine as the waits for its runners use it, from any thread."""

    def check_open(self) -> None:
        """Raise the error that a submit would raise now."""

    def ask(self, question: Callable[[Machine], T]) -> T:
        """Return the answer to a question about the pool's state."""
        ...

    def stats(self) -> PoolStats:
        """Return the statistics of the pool."""
        ...

    def waker_of(self, loop: AbstractEventLoop) -> LoopWaker:
        """Return what resumes the tasks of a loop. Only the thread that runs the loop may call this."""
        ...


class DependentContext(FutureContext, Protocol):
    """An engine as calls that wait for futures use it, from any thread.

    Attributes:
        codec: encodes the calls.
        ids: the numbers of the next calls.
        shared: encodes the values of futures.
    """

    codec: CallCodec
    ids: Iterator[int]
    shared: SharedContents

    def payload_of(self, parts: Sequence[Buffer]) -> bytes | Sequence[Buffer]:
        """Return an encoded call in the form in which a `Call` keeps it: a snapshot of its arguments."""
        ...

    def on_argument_thread(self, job: Callable[[], object]) -> None:
        """Run a job on a worker thread."""

    def post_behind_submits(self, event: object) -> None:
        """Hand the core an event, on the engine thread, after all calls that were submitted before."""


class CoreObserver(Protocol):
    """An object that looks at the core after each event, on the engine thread."""

    def review(self, machine: Machine, *, is_open: bool) -> None:
        """Look at the core. It must not raise. `is_open`: whether the pool still takes calls."""


class StreamContext(Protocol):
    """An engine as the call of a stream uses it, from any thread unless it says otherwise.

    Attributes:
        options: the pool's options.
        ids: the numbers of the next calls.
        forked: True in a process that was forked from the pool's.
        streams: the streams whose calls are not settled.
    """

    options: PoolOptions
    ids: Iterator[int]
    forked: bool
    streams: WeakSet[Any]

    def cancel(self, calls: Sequence[Call], *, running: bool) -> None:
        """Stop calls that were cancelled."""

    def tell(self, call: Call, frame: bytes) -> None:
        """Send a frame to the runner that has the call, if there is one."""

    def call_back(self, callback: Callable[[Any], object], future: Any) -> None:
        """Run a callback on the callback thread."""

    def close_stream(self, stream: Any) -> None:
        """Have a stream's function stopped."""

    def waker_of(self, loop: AbstractEventLoop) -> LoopWaker:
        """Return what resumes the tasks of a loop. Only the thread that runs the loop may call this."""
        ...

    def wake_loops(self) -> None:
        """Wake the event loops with tasks that are to be resumed. Only the engine thread may call this."""


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

    def ask(self, question: Callable[[Machine], T]) -> T:
        """Return the answer to a question about the pool's state."""
        ...

    def shut_down(self, mode: ShutdownMode, reason: str = ...) -> None:
        """Accept no more calls and end, the way `mode` says. Returns at once."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until no runner and no thread of the pool is left; `timeout` seconds at most."""

    def abandon_in_forked_child(self) -> None:
        """Close the descriptors in a forked child. They belong to the process that forked."""
