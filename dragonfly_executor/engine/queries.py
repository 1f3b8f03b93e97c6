"""What other threads ask the engine thread, each answered even where that thread ends meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.transport.loop import Loop

    T = TypeVar("T")


class Questions:
    """Questions about a pool's state, which the engine thread owns until it has ended, and which is anybody's then.

    Without a lock: whoever asks may be interrupted between any two steps.
    """

    def __init__(self, state: Machine) -> None:
        self._state = state
        self._asked: dict[int, SimpleQueue[Any]] = {}
        self._ended = False

    def ask(self, loop: Loop, question: Callable[[Machine], T]) -> T:
        """The answer, given on the thread that runs `loop`, or here if that has ended. Not for that thread itself.

        What the question raises is raised here, and does not end that thread.
        """
        answers: SimpleQueue[list[T]] = SimpleQueue()
        raised: list[Exception] = []

        def answer_it() -> None:
            """On the thread that runs the loop."""
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
        """The thread answers no more."""
        # First the flag: who asks from now on looks at it after having got in line.
        self._ended = True
        for answers in list(self._asked.values()):
            answers.put([])
