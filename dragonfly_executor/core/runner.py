"""One runner of a pool, as the core sees it."""

from __future__ import annotations

from enum import Enum

from dragonfly_executor.core.calls import Call

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Final


class RunnerState(Enum):
    """Where a runner is in its life."""

    BOOTING = "booting"
    UP = "up"
    LEAVING = "leaving"
    """It goes by itself: it takes no call, and ends those that it has. For all else it is as good as stopped."""
    STOPPING = "stopping"
    """It was told to go, or was lost, and still counts against ``max``."""


UP: Final = RunnerState.UP
"""As a plain name: looking a member up in its enum takes longer than comparing with it."""


class Runner:
    """One runner.

    Attributes:
        id: its number in the pool.
        state: where it is in its life.
        slots: calls that it runs at once.
        prefetch: calls that it may have beyond those; kept up to date while all slots have one.
        in_flight: by id, the calls that were sent to it and have not left it; settled ones that it is still to end
            among them, since they occupy their place.
        cost: seconds that a call runs here, as far as is known.
        round_trip: seconds to it and back: the least of the last few that were measured.
        trips: these.
        idle_since: since when it has had no call; meaningful while it has none.
        retiring: it takes no more calls, because the pool was made smaller.
        done: calls that ended here.
    """

    __slots__ = (
        "cost", "done", "id", "idle_since", "in_flight", "prefetch", "retiring", "round_trip", "slots", "state",
        "trips",
    )  # fmt: skip

    def __init__(self, id: int) -> None:  # noqa: A002
        self.id = id
        self.state: RunnerState = RunnerState.BOOTING
        self.slots = 0
        self.prefetch = 0
        self.in_flight: dict[int, Call] = {}
        self.cost: float | None = None
        self.round_trip = 0.0
        self.trips: tuple[float, ...] = ()
        self.idle_since = 0.0
        self.retiring = False
        self.done = 0

    def __repr__(self) -> str:
        return f"<Runner {self.id} {self.state.value} {len(self.in_flight)}/{self.slots}+{self.prefetch}>"
