"""Faults by chance, the same for the same seed: what happens to the third create does not depend on who was first.

chaos = Chaos(seed=7, share=0.3)
fly.faults.drawn = chaos.fault
fly.pulled = chaos.image
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Call, Reply
from tests.support.fly_simulator.faults import Fault, rate_limited
from tests.support.fly_simulator.state import Machine

Maker = Callable[[random.Random], Fault]


def _answering(make: Callable[[], errors.ApiError], *, commit: bool = False) -> Maker:
    def fault(_draw: random.Random) -> Fault:
        error = make()
        return Fault(reply=Reply(error.status, error.body, error.headers), commit=commit)

    return fault


def _platform(draw: random.Random) -> Fault:
    """Carried out or not: nobody can tell."""
    error = errors.platform(draw.choice((500, 502, 503, 504)), html=draw.random() < 0.5)
    return Fault(reply=Reply(error.status, error.body), commit=draw.random() < 0.5)


def _cut(draw: random.Random) -> Fault:
    reset = draw.random() < 0.5
    return Fault(commit=draw.random() < 0.5, cut=not reset, reset=reset)


def _cut_after(_draw: random.Random) -> Fault:
    return Fault(cut_after=True)


def _truncated(draw: random.Random) -> Fault:
    return Fault(truncate=draw.randrange(1, 60))


def _slow(draw: random.Random) -> Fault:
    return Fault(delay=draw.uniform(0.0, 0.05), late=draw.uniform(0.0, 0.05))


def _empty_list(_draw: random.Random) -> Fault:
    return Fault(change=lambda body: [] if isinstance(body, list) else body)


def _more_fields(_draw: random.Random) -> Fault:
    return Fault(change=lambda body: body | {"colour": "blue"} if isinstance(body, dict) else body)


ANY: tuple[Maker, ...] = (_platform, _platform, _cut, _cut, _cut_after, _slow, _answering(rate_limited))
TIMED_OUT = (_answering(errors.flaps_timed_out, commit=True), _answering(errors.flaps_timed_out))
CHANGING: tuple[Maker, ...] = (*ANY, *TIMED_OUT)
MENU: Mapping[str, Sequence[Maker]] = {
    "create": (
        *CHANGING, _truncated, _more_fields, _answering(errors.host_full), _answering(errors.no_candidate_host),
    ),
    "destroy": CHANGING,
    "stop": CHANGING,
    "list": (*ANY, _truncated, _empty_list),
    "get": (*ANY, _truncated, _more_fields),
}  # fmt: skip
"""What may happen to each kind of request, where it is to happen to it; `ANY` to all others."""
UNFIT = ("broken-import", "no-python", "out-of-memory", "launch-failed")


class Chaos:
    """Draws what goes wrong.

    Args:
        share: of the requests that something happens to.
        unfit: share of the machines that find themselves with an image that is no good.
        menu: what there is to draw.
    """

    def __init__(
        self, seed: int, share: float = 0.3, unfit: float = 0.0, menu: Mapping[str, Sequence[Maker]] = MENU
    ) -> None:
        self._seed = seed
        self._share, self._unfit = share, unfit
        self._menu = menu
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def fault(self, call: Call) -> Fault | None:
        """What happens to this request, if anything."""
        draw = self._next(call.action)
        return draw.choice(self._menu.get(call.action, ANY))(draw) if draw.random() < self._share else None

    def image(self, machine: Machine) -> str:
        """The name of the image that this machine really gets."""
        name: str = machine.config["image"]
        draw = self._next("image")
        return f"{name.rpartition(':')[0]}:{draw.choice(UNFIT)}" if draw.random() < self._unfit else name

    def _next(self, what: str) -> random.Random:
        with self._lock:
            self._counts[what] += 1
            return random.Random(f"{self._seed}/{what}/{self._counts[what]}")
