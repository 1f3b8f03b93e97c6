"""Makes the engine of a pool from the user's options: checks them, and completes them by what the backends know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dragonfly_executor import errors
from dragonfly_executor.api.options import core_limits, read_options
from dragonfly_executor.engine.option_checks import above_zero
from dragonfly_executor.engine.tier_settings import TierSettings
from dragonfly_executor.protocol.parent import Parent, max_depth
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

    from dragonfly_executor.api.options import PoolOptions
    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.core.limits import PoolLimits
    from dragonfly_executor.engine.engine import Engine
    from dragonfly_executor.serialization import CallCodec
    from dragonfly_executor.serialization.parent_codec import OnCode
    from dragonfly_executor.sync import FileSnapshot


class EnginePlan:
    """The checked options of a pool, and all that its engine is made from.

    Args:
        options: the pool's.
        tiers: its backends, in order of preference.

    Raises:
        ValueError: an option of a backend is out of range.
        TypeError: an option of a backend has the wrong type.
    """

    def __init__(self, options: PoolOptions, tiers: tuple[TierSettings, ...]) -> None:
        self.options = options
        self.tiers = tiers
        self._limits = _core_limits(options, tiers)

    @property
    def is_checked(self) -> bool:
        """False if `make` may find an error of the user: it checks the serializer, and encodes the initializer."""
        serializer = self.options.serializer
        return self.options.initializer is None and isinstance(serializer, str) and serializer == "cloudpickle"

    @property
    def backend_to_launch(self) -> Backend | None:
        """The backend that is sure to boot the first runner, for calls that require nothing; None if that is open.

        A budget may be used up, and a hook is called before a runner starts.
        """
        options, backend = self.options, self.tiers[0].backend
        is_sure = len(self.tiers) == 1 and options.budget is None and backend.budget is None
        return backend if is_sure and options.on_grow_start is None else None

    def make(self) -> Engine:
        """Return a new engine, not started.

        Raises:
            ValueError, TypeError: the serializer cannot be used.
            CallSerializationError: the initializer cannot be pickled.
            StartError: there is no memory or no descriptor to load the engine.
        """
        # These are half of the package, and a program that makes no call need not load them.
        engine = errors.load_module("dragonfly_executor.engine.engine")
        serialization = errors.load_module("dragonfly_executor.serialization")
        options, tiers = self.options, self.tiers
        snapshots = [tier.file_snapshot for tier in tiers if tier.file_snapshot is not None]
        codec: CallCodec = serialization.CallCodec(
            options.serializer,
            # A call is encoded before its runner is known, so it must be able to travel to every tier.
            script_travels=all(snapshot.script_travels for snapshot in snapshots),
            # Otherwise a large call is copied once, into shared memory.
            copies=not all(tier.backend.shares_memory for tier in tiers),
            read_only=options.read_only_arguments,
            path_travels=all(tier.file_snapshot is None or tier.backend.shares_image for tier in tiers),
            on_code=_code_handler(snapshots),
        )
        made: Engine = engine.Engine(options, self._limits, tiers, codec)
        return made


def plan_engine(
    name: str, backends: Sequence[Backend], given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> EnginePlan:
    """Check the options of a pool, and return the plan of its engine.

    Args:
        name, backends, given, defaults: as for `read_options`.

    Raises:
        ValueError: an option is out of range.
        TypeError: an option has the wrong type, or there is no such option.
        NestingError: this process is a runner that is already as deep as runners may be.
    """
    # A runner that boots runners at its own start never stops booting.
    given = {**given, "min": 0, "spare": 0} if depth() else given
    options = read_options(name, backends, given, defaults)
    return EnginePlan(options, _make_tiers(backends, options, given))


def _core_limits(options: PoolOptions, tiers: Sequence[TierSettings]) -> PoolLimits:
    if len(tiers) == 1:
        return core_limits(options, tiers[0])
    # Imported here, because most pools have one backend.
    from dragonfly_executor.api.tiers import limits_of_several

    return limits_of_several(options, tiers)


def _make_tiers(
    backends: Sequence[Backend], options: PoolOptions, given: Mapping[str, Any]
) -> tuple[TierSettings, ...]:
    """Return the tiers of a pool, with its options for each."""
    made: list[TierSettings] = []
    for backend in backends:
        same = sum(backend.name == tier.backend.name for tier in made)
        budgets = (options.budget, backend.budget)
        # The pool's options have the default of its only backend.
        is_own = len(backends) > 1 and "boot_timeout" not in given
        tier = TierSettings(
            f"{backend.name}-{same + 1}" if same else backend.name,
            backend,
            _file_snapshot(backend),
            boot_timeout=_default_boot_timeout(backend) if is_own else options.boot_timeout,
            max_concurrency=backend.slots
            if backend.slots is not None and "max_concurrency" not in given
            else options.max_concurrency,
            has_fixed_price=any(budget is not None and budget.price is not None for budget in budgets),
        )
        made.append(tier)
    return tuple(made)


def _default_boot_timeout(backend: Backend) -> float:
    return above_zero(backend.default_boot_timeout, f"default_boot_timeout of the {backend.name} backend")


def _code_handler(snapshots: Sequence[FileSnapshot]) -> OnCode | None:
    """Return a function that tells the snapshots which code travels by value; None if there are none."""
    if len(snapshots) < 2:
        return snapshots[0].code_travels if snapshots else None

    def code_travels(codes: list[tuple[CodeType, str]]) -> None:
        """Tell each snapshot."""
        for snapshot in snapshots:
            snapshot.code_travels(codes)

    return code_travels


def depth() -> int:
    """Return how many runners this process is inside of.

    Raises:
        NestingError: runners of a pool here are too deep; see DRAGONFLY_MAX_DEPTH.
    """
    parent = Parent.get()
    depth = parent.depth if parent else 0
    if depth >= max_depth():
        raise errors.NestingError(
            f"this process is a runner, {depth} deep, and runners may be {max_depth()} deep at most; "
            "a call that needs runners of its own can raise that with DRAGONFLY_MAX_DEPTH"
        )
    return depth


def _file_snapshot(backend: Backend) -> FileSnapshot | None:
    """Return the files that the runners need of this machine; None if the runners see them."""
    if backend.sync is None:
        return None
    from dragonfly_executor.sync import FileSnapshot

    return FileSnapshot(backend.sync)
