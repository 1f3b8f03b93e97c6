"""Queries of other threads to the engine thread. Each is answered, even if that thread ends meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.transport.loop import Loop

    T = TypeVar("T")


class Queries:
    """Queries about a pool's state. The engine thread owns the state until it has ended; then any thread may read it.

    There is no lock, because an interrupt may stop the thread that asks between any two steps.
    """

    def __init__(self, state: Machine) -> None:
        self._state = state
        self._asked: dict[int, SimpleQueue[Any]] = {}
        self._ended = False

    def ask(self, loop: Loop, question: Callable[[Machine], T]) -> T:
        """Return the answer, computed on the thread that runs `loop`, or here if that thread has ended.

        An exception of the question is raised here, and does not end the thread of the loop. The thread of the loop
        must not call this.
        """
        answers: SimpleQueue[list[T]] = SimpleQueue()
        raised: list[Exception] = []

        def answer_it() -> None:
            """Compute the answer on the thread that runs the loop."""
            try:
                answers.put([question(self._state)])
            except Exception as error:
                raised.append(error)
                answers.put([])

        try:
            self._asked[id(answers)] = answers
            if self._ended:
                return question(self._state)
            loop.call_soon_threadsafe(answer_it)
            answer = answers.get()
        finally:
            self._asked.pop(id(answers), None)
        if raised:
            raise raised.pop()
        return answer[0] if answer else question(self._state)

    def end(self) -> None:
        """Answer all waiting questions on their own threads from now on."""
        # The flag first: a thread that asks later adds itself to the line, and then checks the flag.
        self._ended = True
        for answers in list(self._asked.values()):
            answers.put([])
