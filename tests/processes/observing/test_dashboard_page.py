"""What the web page shows, and what a user can do there, in a real browser.

`DRAGONFLY_SCREENSHOTS=FOLDER` keeps pictures for people to look at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import Pool
from dragonfly_executor.core import events
from dragonfly_executor.core.actions import Settle
from dragonfly_executor.core.calls import Call, CallLimits
from dragonfly_executor.dashboard.server import DashboardServer
from dragonfly_executor.engine.observing import pool_history
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakePool
from tests.processes.conftest import Make
from tests.support.chromium import PROGRAM, Browser
from tests.support.helpers import PATIENCE, Gate, Mailbox, becomes_true, error_of, values
from tests.support.payloads import echo, fail, wait_at

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="needs chromium")]
EVIL = "<img src=x onerror=document.title='owned'>"


@pytest.fixture
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()
    assert browser.problems == []


def keep(browser: Browser, name: str) -> None:
    folder = os.environ.get("DRAGONFLY_SCREENSHOTS")
    if folder:
        browser.screenshot(Path(folder) / f"{name}.png")


def open_page(browser: Browser, pool: Pool, scheme: str = "light") -> None:
    assert pool.dashboard_url is not None
    browser.open(pool.dashboard_url, scheme)
    browser.shows("live", selector="#live")
    browser.shows(pool.name, selector="#name")


def print_and_wait(gate: str, mailbox: str) -> None:
    print("frame 1 of 90", flush=True)
    with open(mailbox, "w") as told:
        told.write("running\n")
    wait_at(gate)


def test_a_user_sees_calls_looks_at_them_kills_one_and_resizes(
    browser: Browser, make: Make, gate: Gate, mailbox: Mailbox
) -> None:
    ex = make(2, output="capture", dashboard=True)
    held = ex.submit(print_and_wait, gate.path, mailbox.path)
    mailbox.read()
    assert isinstance(error_of(ex.submit(fail, ValueError(EVIL))), ValueError)
    values(ex.submit(echo, number) for number in range(20))
    assert becomes_true(ex.pool, lambda: ex.pool.stats().calls_running == 1)
    open_page(browser, ex.pool)
    browser.shows("print_and_wait", "running", selector="#calls")
    browser.shows("runner 1 is up after", selector="#runners")
    browser.shows("echo", "20", selector="#functions")
    assert "1 of 1" in browser.text("#tiles")
    for scheme in ("light", "dark"):
        open_page(browser, ex.pool, scheme)
        browser.shows("print_and_wait", selector="#calls")
        keep(browser, scheme)
    # A failure, with its traceback. A text of the program is no HTML.
    browser.click("#failures tbody tr")
    browser.shows("Traceback (most recent call last)", f"ValueError: {EVIL}", selector="#traceback")
    keep(browser, "failure")
    browser.click("#call-close")
    # The call that runs: from its bar in the timeline to its end.
    x, y = _bar_of(browser, "print_and_wait")
    browser.mouse("mouseMoved", x, y)
    browser.shows("print_and_wait (call 1)", "runner 1, slot 0", selector="#tip")
    browser.mouse("mousePressed", x, y)
    browser.mouse("mouseReleased", x, y)
    browser.shows("frame 1 of 90", selector="#output")
    browser.click("#call-kill button")
    browser.shows("Really?", selector="#call-kill")
    assert not held.done()
    browser.click("#call-kill button")
    with pytest.raises(CancelledError):
        held.result(PATIENCE)
    browser.shows("cancelled", selector="#call-facts")
    browser.click("#call-close")
    browser.shows("no call is on a runner", selector="#calls")
    # A bad bound is refused with the reason, a good one is obeyed.
    for least, shown in ((9, "min must be at most max"), (1, "1 to 1 runners")):
        browser.evaluate(f"document.querySelector('#min').value = {least}")
        browser.click("#resize button")
        browser.shows(shown, selector="#resized")
        browser.problems[:] = [problem for problem in browser.problems if "api/resize" not in problem]  # it was 400
    assert becomes_true(ex.pool, lambda: ex.pool.stats().min == 1)
    browser.evaluate("document.querySelector('#pause').click()")
    browser.shows("paused", selector="#live")
    assert browser.evaluate("document.title") == f"{ex.pool.name} – dragonfly"
    browser.evaluate("document.querySelector('#pause').click()")
    ex.shutdown()
    browser.shows("no answer", selector="#live")
    # The browser reports that nothing listens any more.
    browser.problems[:] = [problem for problem in browser.problems if "ERR_CONNECTION_REFUSED" not in problem]


def _bar_of(browser: Browser, function: str) -> tuple[float, float]:
    """The middle of the bar that was drawn for a call of this function."""
    found = browser.evaluate(
        f"""(async () => {{
            const box = document.querySelector("#timeline canvas").getBoundingClientRect();
            const {{ timeline }} = await import("./page.js");
            const bar = timeline.hits.find((each) => each.call && each.call.name === {function!r});
            return [box.x + (bar.x0 + bar.x1) / 2, box.y + (bar.y0 + bar.y1) / 2];
        }})()"""
    )
    return found[0], found[1]


def test_a_failed_boot_and_a_read_only_page(browser: Browser, make_pool: MakePool) -> None:
    backend = FakeBackend()
    backend.fail_next_boot()
    pool = make_pool(backend=backend, dashboard="read-only")
    assert pool.submit(echo, 1).result(PATIENCE) == 1
    open_page(browser, pool)
    browser.shows("runner 1 failed to boot", selector="#boot-errors")
    assert browser.evaluate("document.querySelector('#resize').hidden") is True
    keep(browser, "boot failed")


class LargePool:
    """A `PoolSource` with a pool of 200 runners with 8 slots each, and the history of 100,000 calls."""

    def __init__(self, pool: Pool) -> None:
        self._report = dict(pool.status())
        self._now = 1000.0
        self.history = pool_history.PoolHistory(pool._engine._machine, lambda: self._now, captures=False)
        for runner in range(1, 201):
            self.history.runners.note("boot", runner, "")
            self.history.runners.note("up", runner, f"runner {runner} is up")
        self.make_calls(100_000)

    def make_calls(self, count: int) -> None:
        for number in range(count):
            self._now += 0.0006
            call = Call(number, b"", None, CallLimits())
            call.name, call.runner = f"function_{number % 7}", number % 200 + 1
            row = call.name, call.runner, number // 200 % 8, self._now
            self.history._begun[number] = row
            outcome = Outcome(None, b"", is_error=False)  # type: ignore[arg-type]
            done = events.ResultsArrived(call.runner, [(number, 1, 0.3, outcome, False)])
            self.history.note(done, [Settle([(call, outcome)])], self._now)

    async def reports(self) -> tuple[dict[str, Any], list[str]]:
        runner = {
            "state": "up",
            "host": "host.example",
            "pid": 1,
            "backend": None,
            "age": 1.0,
            "slots": 8,
            "cost": None,
        }
        call = {"function": "function", "attempt": 1, "state": "running", "slot": 1, "running_for": 1.0, "age": 2.0}
        rows = {
            "runners": [{**runner, "id": number, "in_flight": 8, "calls_done": 500} for number in range(1, 201)],
            "calls": [{**call, "id": number, "runner": number % 200 + 1} for number in range(200)],
            "runner_states": {"up": 200},
        }
        return {"large": {**self._report, **rows}}, []

    async def ask(self, key: str, request: Mapping[str, Any]) -> Any:
        self.make_calls(100)
        return self.history.report(request["calls_after"], request["tick_after"])

    def close(self) -> None:
        """Nothing waits."""


def test_200_runners_and_100000_calls_stay_fast(browser: Browser, make_pool: MakePool) -> None:
    pool = make_pool("large", backend=FakeBackend())
    pool.start()
    server = DashboardServer("large", LargePool(pool), read_only=True)
    server.start()
    try:
        browser.open(server.url)
        browser.shows("200 up", selector="#tiles")
        browser.shows("runner 200 is up", selector="#runners")
        first = max(_sizes(browser))
        assert first < 1_000_000
        browser.evaluate("performance.clearResourceTimings()")
        # A refresh brings only what is new, and draws only what can be seen: 14 of the 200 runners.
        height, drawn, kept = browser.evaluate(DRAWING)
        deadline = time.monotonic() + PATIENCE
        while not (later := _sizes(browser)):
            assert time.monotonic() < deadline
        assert max(later) < 200_000
        assert height <= 430
        assert 0 < drawn < kept / 5
        keep(browser, "200 runners")
    finally:
        server.close()
        assert server.join(PATIENCE)


DRAWING = """(async () => {
    const { timeline } = await import("./page.js");
    return [document.querySelector("#timeline canvas").height, timeline.hits.length, timeline.calls.length];
})()"""


def _sizes(browser: Browser) -> list[int]:
    """The sizes of the answers to requests for the state, in bytes."""
    entries = "performance.getEntriesByType('resource').filter((each) => each.name.includes('api/state'))"
    found: list[int] = browser.evaluate(f"{entries}.map((each) => each.decodedBodySize)")
    return found
