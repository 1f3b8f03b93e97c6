"""Giving nodes back: a backend may block over it, and may never come back."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Node
    from dragonfly_executor.engine.notifications import Narrator
    from dragonfly_executor.engine.runner_connection import RunnerLink
    from dragonfly_executor.engine.worker_threads import Crew
    from dragonfly_executor.transport.loop import Loop

GIVE_BACK = 60.0
"""Seconds that a backend may take to give a node back. After that nobody waits for it, a shutdown least of all."""


class Releaser:
    """Gives nodes back, each once, and no longer than `GIVE_BACK` is waited for. Belongs to the engine thread.

    Args:
        crew: where backends may block over it, and over nothing else.
        loop, narrator: the pool's.
        backend_name: for complaints.
    """

    def __init__(self, crew: Crew, loop: Loop, narrator: Narrator, backend_name: str) -> None:
        self._crew = crew
        self._loop = loop
        self._narrator = narrator
        self._backend_name = backend_name

    def release(self, runner: RunnerLink, then: Callable[[], object]) -> None:
        """Close the link and give the node back on the crew; then, or when that takes too long, go on here."""
        runner.close()
        going_on = [then]

        def go_on() -> None:
            """Once, whichever comes first: the node is given back, or that takes too long."""
            limit.cancel()
            while going_on:
                going_on.pop()()

        def give_up() -> None:
            """The backend blocks still, and may do so for good."""
            backend = self._backend_name
            self._narrator.complain(f"the {backend} backend did not give runner {runner.id} back in {GIVE_BACK:g} s")
            go_on()

        def give_back() -> None:
            """On the crew."""
            try:
                for thread in runner.give_back():
                    self._narrator.complain(f"thread {thread} of runner {runner.id} has not ended")
            finally:
                self._loop.call_soon_threadsafe(go_on)

        limit = self._loop.call_later(GIVE_BACK, give_up)
        self._crew.run(give_back)

    def abandon(self, runner: RunnerLink) -> None:
        """Close the link and give the node back; nobody hears how that went."""
        runner.close()
        self._crew.run(runner.give_back)

    def stop(self, node: Node) -> None:
        """Give a node back with which nobody has spoken; nobody hears how that went."""
        self._crew.run(node.stop)
