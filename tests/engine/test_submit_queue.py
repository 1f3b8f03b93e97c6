"""The queue of submits, between the engine and a caller that Ctrl-C interrupts."""

from __future__ import annotations

from dragonfly_executor.core.call_table import Call
from dragonfly_executor.engine.submit_queue import SubmitQueue


class WithdrawnMeanwhile(SubmitQueue):
    """A queue whose last entry goes after the engine has looked, as it may without the GIL."""

    def popleft(self):  # type: ignore[no-untyped-def]
        self.clear()
        return super().popleft()


def test_an_entry_may_be_withdrawn_while_the_engine_takes_it() -> None:
    queue, taken = WithdrawnMeanwhile([["call"]]), list[Call]()  # type: ignore[list-item]
    queue.take(taken)
    assert taken == []


def test_an_entry_is_taken_or_withdrawn() -> None:
    queue, taken = SubmitQueue(), []  # type: ignore[var-annotated]
    first, second = ["a", "b"], ["c"]
    queue.append(first)  # type: ignore[arg-type]
    queue.append(second)  # type: ignore[arg-type]
    assert queue.withdraw(second)  # type: ignore[arg-type]
    queue.take(taken)
    assert taken == ["a", "b"]
    assert not queue.withdraw(first)  # type: ignore[arg-type]
