"""What other threads ask the engine thread, each answered even where that thread ends meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from dragonfly_executor.transport.loop import Loop

S = TypeVar("S")
T = TypeVar("T")


class Questions(Generic[S]):
    """Questions about a state that a thread owns until it has ended, and that is anybody's then."""

    def __init__(self, state: S) -> None:
        self._state = state
        self._asked: list[SimpleQueue[Any]] = []
        self._ended = False

    def ask(self, loop: Loop, question: Callable[[S], T]) -> T:
        """The answer, given on the thread that runs `loop`, or here if that has ended. Not for that thread itself."""
        if self._ended:
            return question(self._state)
        answers: SimpleQueue[list[T]] = SimpleQueue()
        self._asked.append(answers)
        loop.call_soon_threadsafe(lambda: answers.put([question(self._state)]))
        if self._ended:
            answers.put([])
        answer = answers.get()
        self._asked.remove(answers)
        return answer[0] if answer else question(self._state)

    def end(self) -> None:
        """The thread answers no more."""
        # First the flag: who asks from now on looks at it after having got in line.
        self._ended = True
        for answers in list(self._asked):
            answers.put([])
