"""A runner's knowledge of its parent."""

from __future__ import annotations

import binascii
import os
from _contextvars import ContextVar  # `contextvars` is this module, in one more file
from collections import namedtuple

from dragonfly_executor.protocol.json_text import simple_object, to_json
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from concurrent.futures import Executor, Future
    from datetime import timedelta
    from typing import Any, ClassVar, ParamSpec, TypeVar, overload

    T = TypeVar("T")
    P = ParamSpec("P")
    Seconds = float | timedelta

    class ChildFuture(Future[T]):
        """The future of a call that a call has submitted."""

        def __await__(self) -> Generator[Any, None, T]: ...

    class ParentPool(Executor):
        """The pool that runs this call. `runner/child_executor.py` has the class; slots alone load it."""

        def options(
            self,
            *,
            timeout: Seconds | None = ...,
            queue_timeout: Seconds | None = ...,
            run_timeout: Seconds | None = ...,
            retries: int = ...,
            retry_on: type[BaseException] | tuple[type[BaseException], ...] = ...,
            requires: dict[str, Any] | None = ...,
            priority: float = ...,
            key: object = ...,
        ) -> ParentPool: ...
        @overload
        def submit(
            self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
        ) -> ChildFuture[T]: ...
        @overload
        def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> ChildFuture[T]: ...
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ChildFuture[Any]: ...
        def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
        async def acall(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


VARIABLE = "DRAGONFLY_PARENT"
"""Name of the environment variable of a runner that holds its encoded `Parent`."""
MARKER = "DRAGONFLY_RUNNER"
"""Environment variable that all processes of a runner inherit. It identifies them after their agent has died."""
MAX_DEPTH_VARIABLE = "DRAGONFLY_MAX_DEPTH"
DEFAULT_MAX_DEPTH = 2
"""Maximum nesting: runners may boot runners, and these may not boot more.

A pool that boots itself recursively must end before the machine's resources do.
"""

_Fields = namedtuple(  # noqa: PYI024  # typing is slow to import
    "_Fields",
    "pool runner_id backend pid host depth address fingerprint token until slot",
    defaults=(1, None, None, None, None, None),
)


class CallPoolSource:
    """The source of the executors of `Parent.pool` in this process.

    Attributes:
        of_process: makes one; None if this process is no slot. It is no context variable, because threads of a call
            use it as well.
    """

    # Any: type checkers take a callable on a class for a method.
    of_process: ClassVar[Any] = None


def pool_of_call() -> ParentPool:
    """Return an executor, inside a call, that submits calls to the pool that runs this call.

    The parent schedules them like its own calls. A call that waits for such a child call, in `result`,
    `concurrent.futures.wait`, `as_completed` or ``await``, lends its slot: another call may run in its place, so no
    depth of nesting can deadlock. docs/nested-calls.md has the rules.

    Raises:
        RuntimeError: this code does not run in a call; or the first use in a slot is not on the call's own thread.
    """
    source = POOL_OF_FAKE.get() or CallPoolSource.of_process
    if source is None:
        raise RuntimeError("Parent.pool() works inside calls of runners: this code does not run in one")
    made: ParentPool = source()
    return made


class PoolField:
    """The field `Parent.pool`: of an object, the pool's name; of the class, the function `pool_of_call`."""

    if TYPE_CHECKING:

        @overload
        def __get__(self, parent: None, owner: type[Parent]) -> Callable[[], ParentPool]: ...
        @overload
        def __get__(self, parent: Parent, owner: type[Parent]) -> str: ...

    def __get__(self, parent: Parent | None, owner: type[Parent]) -> Any:
        return pool_of_call if parent is None else parent[0]


class Parent(_Fields):
    """The parent's description inside a runner. It holds no secret in calls: the token is used up and removed by then.

    Attributes:
        pool: name of the pool that the runner belongs to. But ``Parent.pool()``, of the class, returns an executor that
            submits calls to this pool, inside a call: see `pool_of_call`.
        runner_id: the runner's number in that pool, as in ``stats()``.
        backend: name of the backend that booted it.
        pid: process id of the parent, on its own machine.
        host: name of the parent's machine.
        depth: nesting depth; 1 for a runner of the user's own program.
        address: the parent's listener for a runner that dials back, as ``host:port``; None for all other runners.
        fingerprint: SHA-256 of the listener's certificate, in hexadecimal.
        token: the single-use token that such a runner proves to be admitted, in hexadecimal. None in slots, and never
            shown.
        until: deadline of the boot, in seconds since the epoch by the parent's clock, if the backend sets it. A runner
            that starts much later is on a machine that was started again.
        slot: the number of the slot that runs this code, from 0 to `max_concurrency` - 1 within its runner. Two slots
            that live at the same time have different numbers. A slot that replaces another takes a free number, the
            lowest first. So calls of one number never overlap, and a port or a device can be chosen by it. While the
            idle check holds a slot, one more slot may run. Its number is `max_concurrency`. None outside a slot.
    """

    __slots__ = ()
    pool: PoolField = PoolField()
    runner_id: int
    backend: str
    pid: int
    host: str
    depth: int
    address: str | None
    fingerprint: str | None
    token: str | None
    until: int | None
    slot: int | None

    def __repr__(self) -> str:
        shown = {**self._asdict(), "token": None if self.token is None else "..."}
        return f"Parent({', '.join(f'{name}={value!r}' for name, value in shown.items() if value is not None)})"

    @staticmethod
    def get() -> Parent | None:
        """Return the parent of the runner that runs this code; None outside a runner.

        An application uses this to skip code that must run only once: ``if not Parent.get(): serve()``.
        """
        return PARENT_OF_FAKE.get() or Parent.of_process()

    @staticmethod
    def of_process() -> Parent | None:
        """Return the parent of the runner whose process this is; None in other processes, also in calls of a fake."""
        encoded = os.environ.get(VARIABLE)
        return Parent.decode(encoded) if encoded else None

    @staticmethod
    def new(pool: str, runner_id: int, backend: str) -> Parent:
        """Return a description of this process as the parent of a runner that is about to be booted."""
        own = Parent.get()
        depth = own.depth + 1 if own else 1
        return Parent(pool, runner_id, backend, os.getpid(), os.uname().nodename, depth)

    def encode(self) -> str:
        """Return the value of ``DRAGONFLY_PARENT``."""
        said = {name: value for name, value in self._asdict().items() if value is not None}
        return binascii.b2a_base64(to_json(said), newline=False).decode("ascii")

    @staticmethod
    def decode(text: str) -> Parent:
        """Return the `Parent` that `encode` encoded.

        Raises:
            ValueError: the text is not an encoded parent.
        """
        try:
            said = binascii.a2b_base64(text)
            known: Any = simple_object(said.decode(errors="surrogatepass")) or json.loads(said)
            return Parent(**known)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{VARIABLE} does not hold a parent's description: {error}") from None


PARENT_OF_FAKE: ContextVar[Parent | None] = ContextVar("PARENT_OF_FAKE", default=None)
"""The parent of a fake runner, in its calls. They are threads of one process, and so cannot have environments."""

POOL_OF_FAKE: ContextVar[Callable[[], Any] | None] = ContextVar("POOL_OF_FAKE", default=None)
"""Makes the executors of `Parent.pool` in the calls of a fake runner."""


def max_depth() -> int:
    """Return the maximum nesting of runners: ``DRAGONFLY_MAX_DEPTH``, 2 by default."""
    text = os.environ.get(MAX_DEPTH_VARIABLE, "")
    return int(text) if text.isdigit() else DEFAULT_MAX_DEPTH
