"""Records of nodes that pools have booted, as a backend finds them from outside of any pool."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

from dragonfly_executor.backends.owner import Liveness, Owner

Found = TypeVar("Found")


class FoundNode(NamedTuple):
    """A node that a pool has booted, or may have booted.

    Attributes:
        name: the node's unique name, which its backend chose before it asked for the node.
        node_id: the platform's id; None if it is not known. Then there may be no node.
        state: the platform's word for its state. For a node that only the journal knows: "asked for" or "not known".
        liveness: whether the owner, the process of the node's pool, is alive. `Liveness.GONE` makes it an orphan, which
            a sweep destroys.
        why: the reason for `liveness`, in words.
        pool: the name of its pool; "" if it is not known.
        owner: its owner; None if it is not known.
        age: seconds since the platform created it, or since the boot began; None if it is not known.
        price: estimated US dollars per second; None if it is not known.
        place: the platform's word for where it is, such as a region or a partition.
        exists: whether the platform knows the node. If False, only the journal does, and there is nothing to destroy.
        in_journal: whether the journal on this machine has the node.
    """

    name: str
    node_id: str | None
    state: str
    liveness: Liveness
    why: str
    pool: str = ""
    owner: Owner | None = None
    age: float | None = None
    price: float | None = None
    place: str = ""
    exists: bool = True
    in_journal: bool = False

    @property
    def is_orphan(self) -> bool:
        """Return True if a sweep destroys the node."""
        return self.exists and self.liveness is Liveness.GONE

    @property
    def cost(self) -> float | None:
        """Return the estimated cost so far in US dollars; None if it is not known."""
        return self.age * self.price if self.exists and self.age is not None and self.price is not None else None

    def record(self) -> dict[str, Any]:
        """Return the facts as a JSON-compatible record."""
        owner = None if self.owner is None else {"host": self.owner.host, "pid": self.owner.pid}
        return {**self._asdict(), "liveness": self.liveness.value, "owner": owner, "cost": self.cost}


class SweepResult(NamedTuple, Generic[Found]):
    """The result of destroying nodes.

    Attributes:
        destroyed: nodes that are gone now.
        left: nodes that may still exist, each with the reason.
    """

    destroyed: list[Found]
    left: list[tuple[Found, str]]
