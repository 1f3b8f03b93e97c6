"""What calls print, in the parent: shown, tagged, captured, or given to a function of the user's.

Frames arrive on the engine thread. What is captured is kept there; all else is the user's code or may block (a terminal
that is halted, a pipe that nobody reads), and so is done on the callback thread. Either way the agent is told what has
been consumed, and sends no more than a window ahead of that.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable

from dragonfly_executor.protocol.frames import Flag, Frame
from dragonfly_executor.protocol.output_window import GRANT, Text, weight
from dragonfly_executor.util.condition import RLock, holding

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Protocol

    from dragonfly_executor.engine.output.printer import OutputLine, Printer
    from dragonfly_executor.engine.worker_threads import Crew

    class CapturingFuture(Protocol):
        """A call's future, which keeps what the call has written."""

        captured: Captured | None

    class OutputSource(Protocol):
        """Where frames come from; a runner's link."""

        id: int

        def output_consumed(self, slot: int, amount: int) -> None:
            """Tell its agent."""

        def output_forgotten(self, amount: int) -> None:
            """So much of slots that have ended is done with."""


CAPTURED = 1024 * 1024
"""Characters of a call's output that are kept: the last ones."""
MAX_LEVEL = 2**31
SMALL = 4 * 1024
"""Pieces of text that are shorter are joined, so that a million of single characters takes no million objects."""


class Captured:
    """What one call has written: its last attempt's, the two streams in the order in which they were read."""

    def __init__(self) -> None:
        # Whoever asks for the text may be interrupted.
        self._lock = RLock()
        self._begin(0)

    def _begin(self, attempt: int) -> None:
        self._attempt = attempt
        self._texts = (Text(), Text())
        self._pieces: deque[str] = deque()
        self._size = 0
        self._dropped = 0

    def add(self, frame: Frame) -> None:
        """Take in what it wrote; of an earlier attempt nothing counts any more."""
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
        """All of it, or its end and how much was dropped."""
        text, dropped = holding(self._lock, lambda: ("".join(self._pieces), self._dropped))
        beyond = max(0, len(text) - CAPTURED)
        dropped += beyond
        return f"[{dropped} characters were dropped]\n{text[beyond:]}" if dropped else text


class Outputs:
    """What becomes of the output of a pool's calls.

    Args:
        output: the option.
        crew: the callback thread.
        call_soon: has something done on the engine thread.
        find: the future of a call that is not settled yet, by its id.
        failed: is told what the user's function raised.
    """

    def __init__(
        self,
        output: str | Callable[[OutputLine], object],
        crew: Crew,
        call_soon: Callable[[Callable[[], object]], None],
        find: Callable[[int], CapturingFuture | None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._output = output
        self._crew = crew
        self._call_soon = call_soon
        self._find = find
        self._captures = output == "capture"
        self.has_records = output == "tag" or not isinstance(output, str)
        """Whether records of `logging` come back from calls."""
        self._kept: weakref.WeakValueDictionary[int, CapturingFuture] = weakref.WeakValueDictionary()
        self._owed: dict[tuple[int, int], int] = {}
        """What was consumed and the agents have not been told, by runner and slot; of the thread that consumes."""
        self._failed = failed
        self._printer: Printer | None = None

    def wanted(self, *, shares_disk: bool) -> tuple[str, int | None]:
        """What an agent is told: what to do with output, and from which level on it sends log records."""
        if self._output == "inherit":
            return ("inherit" if shares_disk else "send"), None
        if not self.has_records:
            return ("drop" if self._output == "drop" else "send"), None
        return "send", self.log_level()

    @staticmethod
    def log_level() -> int:
        """Return the level from which on the root logger lets records pass now."""
        root = logging.root
        return min(max(root.level, root.manager.disable + 1 if root.manager.disable else 0, 0), MAX_LEVEL)

    # -- on the engine thread -----------------------------------------------------------------------------------------

    def arrived(self, runner: OutputSource, frame: Frame, is_here: bool) -> None:
        """A runner has sent some; `is_here`: of a call that is known to be on it."""
        if not self._captures:
            self._crew.run(self._consume, runner, frame)
            return
        future = self._kept.get(frame.call_id) or (self._find(frame.call_id) if is_here else None)
        if future is not None:
            if future.captured is None:
                future.captured = Captured()
            future.captured.add(frame)
        amount = self._consumed(runner, frame)
        if amount:
            runner.output_consumed(frame.detail, amount)

    def keep(self, future: CapturingFuture | None, call_id: int) -> None:
        """This call is settled before its slot has ended: what it wrote until then may still come."""
        if self._captures and future is not None:
            self._kept[call_id] = future

    def slot_is_down(self, runner: OutputSource, slot: int) -> None:
        """A slot has ended."""
        if self._captures:
            runner.output_forgotten(self._owed.pop((runner.id, slot), 0))
        else:
            self._crew.run(self._end, runner, slot)

    def runner_is_gone(self, runner: OutputSource) -> None:
        """Nothing will come from it any more."""
        if not self._captures:
            self._crew.run(self._end, runner, None)

    # -- on the thread that consumes ----------------------------------------------------------------------------------

    def _consume(self, runner: OutputSource, frame: Frame) -> None:
        try:
            # Nothing comes where the slots of a local pool print for themselves, and a cold start need not load this.
            # If it cannot be loaded the text is lost. The agent is told that it was consumed all the same: else the
            # call would wait for ever.
            from dragonfly_executor.engine.output.printer import Printer, Source

            self._printer = self._printer or Printer(self._output, self._failed)
            self._printer.print(Source(runner.id, frame.detail, frame.call_id, frame.attempt), frame)
        finally:
            amount = self._consumed(runner, frame)
            if amount:
                self._call_soon(lambda: runner.output_consumed(frame.detail, amount))

    def _consumed(self, runner: OutputSource, frame: Frame) -> int:
        """How much the agent is to be told of now, or 0: it need not hear of every piece."""
        key = (runner.id, frame.detail)
        amount = self._owed.get(key, 0) + weight(frame.raw)
        self._owed[key] = 0 if amount >= GRANT else amount
        return amount if amount >= GRANT else 0

    def _end(self, runner: OutputSource, slot: int | None) -> None:
        ended = [key for key in self._owed if key[0] == runner.id and slot in (None, key[1])]
        amount = sum(self._owed.pop(key) for key in ended)
        if self._printer is not None:
            self._printer.end(runner.id, slot)
        if amount:
            self._call_soon(lambda: runner.output_forgotten(amount))
