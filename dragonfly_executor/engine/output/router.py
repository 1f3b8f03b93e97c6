"""Routes the output of calls in the parent: to the screen, to futures, or to the user's function.

Frames arrive on the engine thread. Captured output stays there. All other output runs the user's code or may block (a
halted terminal, a pipe that is not read), so it goes to the callback thread. Either way the agent is told how much was
consumed, and sends at most one window ahead of that.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable

from dragonfly_executor.protocol.frames import Flag, Frame
from dragonfly_executor.protocol.output_window import GRANT, TextDecoder, weight
from dragonfly_executor.util.condition import RLock, holding
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol

    from dragonfly_executor.engine.output.printer import OutputLine, Printer
    from dragonfly_executor.engine.worker_threads import WorkerThreads

    class CapturingFuture(Protocol):
        """The future of a call, which keeps the output of the call."""

        captured: CapturedOutput | None

    class OutputLink(Protocol):
        """The source of output frames: a runner's link."""

        id: int

        def output_consumed(self, slot: int, amount: int) -> None:
            """Grant the agent `amount` more bytes of output of this slot."""

        def output_forgotten(self, amount: int) -> None:
            """Count `amount` bytes of output of ended slots as consumed."""


CAPTURED = 1024 * 1024
"""Maximum number of characters of a call's output that are kept. The last ones are."""
MAX_LEVEL = 2**31
SMALL = 4 * 1024
"""Shorter pieces of text are joined, so that a million single characters do not become a million objects."""


class CapturedOutput:
    """The captured output of a call's last attempt: both streams in the order in which they were read."""

    def __init__(self) -> None:
        # A reentrant lock, because an interrupt may stop the thread that reads the text.
        self._lock = RLock()
        self._begin(0)

    def _begin(self, attempt: int) -> None:
        self._attempt = attempt
        self._texts = (TextDecoder(), TextDecoder())
        self._pieces: deque[str] = deque()
        self._size = 0
        self._dropped = 0

    def add(self, frame: Frame) -> None:
        """Add a frame of output. A later attempt replaces the text of earlier ones."""
        with self._lock:
            if frame.attempt > self._attempt:
                self._begin(frame.attempt)
            if frame.attempt < self._attempt:
                return
            if frame.flags & Flag.END:
                self._keep([*self._texts[0].end(), *self._texts[1].end()])
            else:
                self._keep(self._texts[bool(frame.flags & Flag.STDERR)].feed(bytes(frame.payload)))

    def _keep(self, texts: list[str]) -> None:
        for text in texts:
            self._size += len(text)
            if self._pieces and len(self._pieces[-1]) < SMALL:
                self._pieces[-1] += text
            else:
                self._pieces.append(text)
        while self._size - len(self._pieces[0] if self._pieces else "") >= CAPTURED:
            first = self._pieces.popleft()
            self._size -= len(first)
            self._dropped += len(first)

    def text(self) -> str:
        """Return the text, or its end with the number of characters that were dropped."""
        text, dropped = holding(self._lock, lambda: ("".join(self._pieces), self._dropped))
        beyond = max(0, len(text) - CAPTURED)
        dropped += beyond
        return f"[{dropped} characters were dropped]\n{text[beyond:]}" if dropped else text


class OutputRouter:
    """A router of the output of a pool's calls.

    Args:
        output: the pool's option.
        workers: the callback thread.
        call_soon: runs a function on the engine thread.
        find: returns the future of an unsettled call, by its id.
        failed: gets exceptions of the user's function.
    """

    def __init__(
        self,
        output: str | Callable[[OutputLine], object],
        workers: WorkerThreads,
        call_soon: Callable[[Callable[[], object]], None],
        find: Callable[[int], CapturingFuture | None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._output = output
        self._workers = workers
        self._call_soon = call_soon
        self._find = find
        self._captures = output == "capture"
        self.has_records = output == "tag" or not isinstance(output, str)
        """True if calls send records of `logging`."""
        self._kept: weakref.WeakValueDictionary[int, CapturingFuture] = weakref.WeakValueDictionary()
        self._owed: dict[tuple[int, int], int] = {}
        """Consumed bytes that were not reported to the agents, by runner and slot. Only the consumer thread uses it."""
        self._failed = failed
        self._printer: Printer | None = None

    def agent_settings(self, *, shares_disk: bool) -> tuple[str, int | None]:
        """Return the output mode and the log level to send to the agent."""
        if self._output == "inherit":
            return ("inherit" if shares_disk else "send"), None
        if not self.has_records:
            return ("drop" if self._output == "drop" else "send"), None
        return "send", self.log_level()

    @staticmethod
    def log_level() -> int:
        """Return the lowest level of records that the root logger lets pass now."""
        root = logging.root
        return min(max(root.level, root.manager.disable + 1 if root.manager.disable else 0, 0), MAX_LEVEL)

    # -- on the engine thread -----------------------------------------------------------------------------------------

    def arrived(self, runner: OutputLink, frame: Frame, is_here: bool) -> None:
        """Handle output from a runner. `is_here`: whether it belongs to a call that is on the runner."""
        if not self._captures:
            self._workers.run(self._consume, runner, frame)
            return
        future = self._kept.get(frame.call_id) or (self._find(frame.call_id) if is_here else None)
        if future is not None:
            if future.captured is None:
                future.captured = CapturedOutput()
            future.captured.add(frame)
        amount = self._consumed(runner, frame)
        if amount:
            runner.output_consumed(frame.detail, amount)

    def keep(self, future: CapturingFuture, call_id: int) -> None:
        """Keep capturing the output of a call that is settled before its slot has ended."""
        if self._captures:
            self._kept[call_id] = future

    def slot_is_down(self, runner: OutputLink, slot: int) -> None:
        """Handle the end of a slot."""
        if self._captures:
            runner.output_forgotten(self._owed.pop((runner.id, slot), 0))
        else:
            self._workers.run(self._end, runner, slot)

    def runner_is_gone(self, runner: OutputLink) -> None:
        """Handle the end of a runner: it sends no more output."""
        if not self._captures:
            self._workers.run(self._end, runner, None)

    # -- on the thread that consumes ----------------------------------------------------------------------------------

    def _consume(self, runner: OutputLink, frame: Frame) -> None:
        try:
            # The slots of a local pool print by themselves, so a cold start need not load the printer. If the printer
            # cannot be loaded, the text is lost. The agent is still told that it was consumed: otherwise the call would
            # wait for ever.
            from dragonfly_executor.engine.output.printer import OutputSource, Printer

            self._printer = self._printer or Printer(self._output, self._failed)
            self._printer.print(OutputSource(runner.id, frame.detail, frame.call_id, frame.attempt), frame)
        finally:
            amount = self._consumed(runner, frame)
            if amount:
                self._call_soon(lambda: runner.output_consumed(frame.detail, amount))

    def _consumed(self, runner: OutputLink, frame: Frame) -> int:
        """Return how much to report to the agent now, or 0. The agent does not need a report of every piece."""
        key = (runner.id, frame.detail)
        amount = self._owed.get(key, 0) + weight(frame.raw)
        self._owed[key] = 0 if amount >= GRANT else amount
        return amount if amount >= GRANT else 0

    def _end(self, runner: OutputLink, slot: int | None) -> None:
        ended = [key for key in self._owed if key[0] == runner.id and slot in (None, key[1])]
        amount = sum(self._owed.pop(key) for key in ended)
        if self._printer is not None:
            self._printer.end(runner.id, slot)
        if amount:
            self._call_soon(lambda: runner.output_forgotten(amount))
