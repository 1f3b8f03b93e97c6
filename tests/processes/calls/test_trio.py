"""The bridge of examples/trio_calls.py: calls that tasks of Trio await."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType

import pytest

from tests.examples.conftest import EXAMPLES
from tests.processes.conftest import Make
from tests.support.helpers import SOON, Gate, Mailbox, ProcessHandle, all_ended, watching
from tests.support.payloads import echo, fail, hold, hold_with_sleeper

trio = pytest.importorskip("trio", reason="trio is not installed here: it is in the extra 'test'")
from trio.testing import wait_all_tasks_blocked  # noqa: E402


@pytest.fixture(scope="module")
def bridge() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("trio_calls", EXAMPLES / "trio_calls.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("run", ["trio", "anyio"])
def test_values_and_errors(make: Make, bridge: ModuleType, run: str) -> None:
    ex = make(2)

    async def main() -> None:
        future = ex.submit(echo, 1)
        assert await bridge.wait_in_trio(future) == 1
        assert await bridge.wait_in_trio(future) == 1
        with pytest.raises(ValueError, match="no"):
            await bridge.wait_in_trio(ex.submit(fail, ValueError("no")))

    if run == "trio":
        trio.run(main)
    else:
        anyio = pytest.importorskip("anyio", reason="anyio is not installed here: it is in the extra 'test'")
        anyio.run(main, backend="trio")


def test_a_cancelled_task_stops_its_call(make: Make, bridge: ModuleType, mailbox: Mailbox) -> None:
    ex = make(1)

    async def wait() -> None:
        await bridge.wait_in_trio(ex.submit(hold_with_sleeper, mailbox.path, "session"))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            watches.extend(held.enter_context(watching(*map(int, mailbox.read().split()))))
            nursery.cancel_scope.cancel()

    watches: list[ProcessHandle] = []
    with ExitStack() as held:
        trio.run(main)
        assert all_ended(watches)
    assert ex.submit(echo, 1).result(SOON) == 1


def test_a_call_that_ends_after_trio_harms_nothing(
    make: Make, bridge: ModuleType, mailbox: Mailbox, gate: Gate
) -> None:
    ex = make(1)
    future = ex.options(cancel_running=False).submit(hold, mailbox.path, gate.path)
    mailbox.read()

    async def main() -> None:
        with trio.move_on_after(0.01):
            await bridge.wait_in_trio(future)

    trio.run(main)
    gate.open()
    assert future.result(SOON) is None
    assert ex.submit(echo, 1).result(SOON) == 1


@pytest.mark.parametrize(
    "ask", [lambda ex: ex.acall(echo, 1), lambda ex: anext(ex.amap(echo, [1]))], ids=["acall", "amap"]
)
def test_what_needs_asyncio_says_so(make: Make, ask: Callable[..., object]) -> None:
    ex = make(1)

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"running asyncio event loop.*docs/asyncio\.md"):
            await ask(ex)  # type: ignore[misc]

    trio.run(main)
    stats = ex.pool.stats()
    assert (stats.calls_queued, stats.calls_sent, stats.calls_cancelled) == (0, 0, 0)
