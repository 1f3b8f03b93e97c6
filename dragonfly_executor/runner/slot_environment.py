"""The environment variables of a slot: its number, and its share of the runner's CPUs and GPUs.

Libraries read these variables when they are loaded. So a slot sets them before it imports anything of the user's.
"""

from __future__ import annotations

from collections.abc import Mapping

from dragonfly_executor.protocol.parent import VARIABLE, Parent
from dragonfly_executor.runner.gpus import count_gpus, only, share_of
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from dragonfly_executor.runner.machine import RunnerMachine

OPENMP: Final = "OMP_NUM_THREADS"
FOLLOW_OPENMP: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables of libraries that follow `OPENMP` while their own variable is not set."""
THREAD_VARIABLES: Final = (
    OPENMP,
    *FOLLOW_OPENMP,
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
MOST: Final = {"NUMEXPR_NUM_THREADS": 64}
"""Largest values. NumExpr goes on with one thread if it is to use more than ``NUMEXPR_MAX_THREADS``."""
MARK: Final = "DRAGONFLY_SLOT_THREADS"
"""The number of threads that a slot has set. It shows a runner in the slot which variables the user has not set."""


class SlotEnvironment:
    """The variables that a runner's slots set.

    Args:
        environment: the agent's environment.
        machine: what the runner may use.
        slots: number of slots.
        limits_threads: whether the threads of libraries are limited to a slot's share of the CPUs.
        divides_gpus: whether a slot sees its share of the GPUs alone.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        machine: RunnerMachine,
        slots: int,
        *,
        limits_threads: bool,
        divides_gpus: bool,
    ) -> None:
        encoded = environment.get(VARIABLE)
        self._parent = Parent.decode(encoded) if encoded else None
        self._slots = slots
        cpus, seen = machine.cpus, machine.seen_cpus
        self._threads = _thread_variables(environment, slots, cpus, seen) if limits_threads else {}
        self._gpus = machine.gpus if divides_gpus else {}

    @property
    def divided_gpus(self) -> int:
        """Return the number of GPUs that slots divide; 0 if each slot sees all GPUs."""
        return count_gpus(self._gpus) if self._slots > 1 else 0

    @property
    def common(self) -> dict[str, str]:
        """Return the variables that are the same in all slots.

        The agent sets them in its own environment, which slots inherit: setting ten variables takes a twentieth of a
        slot's start.
        """
        return self._threads

    def of(self, number: int, gpus: frozenset[int] | None = None) -> dict[str, str]:
        """Return the variables of a slot that others do not share.

        Args:
            number: its number.
            gpus: the numbers of its GPUs among those of the runner; None for its usual share.
        """
        seen = share_of(self._gpus, number, self._slots) if gpus is None else only(self._gpus, gpus)
        variables = dict(seen)
        if self._parent is not None:
            # In the environment, so that the programs that a call starts have it too.
            variables[VARIABLE] = self._parent._replace(slot=number).encode()
        return variables


def _thread_variables(environment: Mapping[str, str], slots: int, cpus: float, seen_cpus: int) -> dict[str, str]:
    """Return the variables that limit threads, without the user's own ones."""
    mark = environment.get(MARK, "")
    inherited: dict[str, str] = {}
    if mark.isdecimal():
        # This runner lives in a slot, and its slots divide what that slot has.
        inherited = _limits(int(mark))
        cpus = min(cpus, int(mark))
    threads = max(1, int(cpus / slots))
    if threads >= seen_cpus:
        return {}
    taken = {name for name in THREAD_VARIABLES if name in environment and environment[name] != inherited.get(name)}
    if OPENMP in taken:
        taken.update(FOLLOW_OPENMP)
    return {**{name: value for name, value in _limits(threads).items() if name not in taken}, MARK: str(threads)}


def _limits(threads: int) -> dict[str, str]:
    return {name: str(min(threads, MOST.get(name, threads))) for name in THREAD_VARIABLES}
