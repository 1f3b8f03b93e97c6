"""Interrupts at every step that a thread takes in this package: not by chance, but at the first, the second, ..."""

from __future__ import annotations

import dis
import functools
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import dragonfly_executor

PACKAGE = str(Path(dragonfly_executor.__file__).parent)
PICKLING = tuple(str(Path(PACKAGE, name)) for name in ("serialization", "protocol/json_text", "protocol/stdlib_json"))
"""It takes thousands of instructions, and hands nothing over. So it is interrupted at each of its lines only."""
ASKS_FOR_SIGNALS = (
    "BEFORE_WITH",
    "CALL",
    "FOR_ITER",
    "JUMP_BACKWARD",
    "LOAD_SPECIAL",
    "POP_JUMP_BACKWARD",
    "RESUME",
    "SEND",
)
"""How the instructions begin in which CPython looks for signals, or which run C functions that do."""
Trace = Callable[[FrameType, str, Any], Any]


class Interrupt:
    """A Ctrl-C that comes to this thread as it takes a certain step.

    A step is a line that begins, a function of the package that is entered or left, and, if `each_opcode`, each
    instruction in which CPython looks for signals, and the one after it, as well. No signal comes at the others.

    Args:
        step: before which one it comes; 0 is the first.
        each_opcode: what counts as a step.
        files: whose steps count; each instruction of `PICKLING` only if it is named.

    Attributes:
        where: it came; "" if there are not so many steps.
    """

    def __init__(self, step: int, *, each_opcode: bool = False, files: tuple[str, ...] = (PACKAGE,)) -> None:
        self.where = ""
        self._left = step
        self._each_opcode = each_opcode
        self._files = files
        self._known: dict[CodeType, bool] = {}

    def come_in(self, action: Callable[[], object]) -> None:
        """Do this, with the interrupt in it; raises what it raises."""
        # A garbage collection would make it another step each time.
        gc.disable()
        # In a weak reference's callback, or a generator that is dropped, it is lost.
        before, sys.unraisablehook = sys.unraisablehook, self._lost
        sys.settrace(self._enter)
        try:
            action()
        finally:
            sys.settrace(None)
            sys.unraisablehook = before
            gc.enable()

    def _lost(self, unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(unraisable)

    def _enter(self, frame: FrameType, event: str, argument: object) -> Trace | None:
        code = frame.f_code
        counts = self._known.get(code)
        if counts is None:
            counts = self._known[code] = self._counts(code.co_filename)
        if not counts:
            return None
        file = code.co_filename
        each_opcode = self._each_opcode and (file in self._files or not file.startswith(PICKLING))
        frame.f_trace_opcodes = each_opcode
        opcodes = opcodes_that_ask(code) if each_opcode else frozenset()

        def take_step(frame: FrameType, event: str, argument: object) -> Trace:
            if event == "exception" or (event == "opcode" and frame.f_lasti not in opcodes):
                return take_step
            if not self._left:
                self.where = f"{code.co_qualname}, {event} {frame.f_lineno}.{frame.f_lasti}"
                raise KeyboardInterrupt
            self._left -= 1
            return take_step

        return take_step(frame, event, argument)

    def _counts(self, file: str) -> bool:
        return file in self._files or file.startswith(self._files)


@functools.cache
def opcodes_that_ask(code: CodeType) -> frozenset[int]:
    """Return the offsets of the instructions in which CPython looks for signals, and of those after them."""
    asks = [instruction.opname.startswith(ASKS_FOR_SIGNALS) for instruction in dis.get_instructions(code)]
    offsets = [instruction.offset for instruction in dis.get_instructions(code)]
    return frozenset(offset for offset, *near in zip(offsets, asks, [False, *asks], strict=False) if any(near))


def everywhere(action: Callable[[], object], **options: Any) -> Iterator[str]:
    """Do this again and again, each time interrupted one step later, until it is done before that; yields where.

    What it raises but the interrupt is raised here.
    """
    step = 0
    while True:
        interrupt = Interrupt(step, **options)
        try:
            interrupt.come_in(action)
        except KeyboardInterrupt:
            assert interrupt.where, "this is a real one"
        if not interrupt.where:
            return
        yield interrupt.where
        step += 1
