"""The settings of one call: the seed of random numbers, and values of context variables. Runs on a slot.

The contract of seeds: the call with the index `i` begins in the state of `random` after ``random.seed(f"{seed}:{i}")``,
and in that of NumPy's after ``numpy.random.seed(random.Random(f"{seed}:{i}").getrandbits(32))``.
"""

from __future__ import annotations

import sys
from types import CoroutineType

from dragonfly_executor.serialization.post_import_hook import PostImportHooks
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import ContextVar
    from typing import Any

NUMPY = "numpy.random"


class CallSetting:
    """Calls a function under a setting.

    Args:
        fn: the function.
        seed: the seed; None for no seed.
        values: values of context variables.
    """

    def __init__(self, fn: Callable[..., Any], seed: int | None, values: Mapping[ContextVar[Any], Any]) -> None:
        self.__wrapped__ = fn
        self.seed = seed
        self.values = values

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function as the call with the index 0."""
        return self.run(0, args, kwargs)

    def run(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function. If it returns a coroutine, that runs under the setting."""
        return self.hold(lambda: self.__wrapped__(*args, **kwargs), index)

    def hold(self, run: Callable[[], Any], index: int = 0) -> Any:
        """Call `run` under the setting. If it returns a coroutine, that runs under the setting."""
        from contextvars import copy_context

        return copy_context().run(self._hold, run, index)

    def _hold(self, run: Callable[[], Any], index: int) -> Any:
        for variable, value in self.values.items():
            variable.set(value)
        if self.seed is None:
            result = run()
        else:
            with SeededNumbers(f"{self.seed}:{index}"):
                result = run()
        return self._later(index, result) if type(result) is CoroutineType else result

    async def _later(self, index: int, coroutine: CoroutineType[Any, Any, Any]) -> Any:
        """Run a coroutine under the setting. It has a context of its own."""
        for variable, value in self.values.items():
            variable.set(value)
        if self.seed is None:
            return await coroutine
        with SeededNumbers(f"{self.seed}:{index}"):
            return await coroutine


class ItemSetting(CallSetting):
    """Calls the function of a map. The first argument is the index of the item."""

    def __call__(self, index: int, *args: Any) -> Any:
        """Call the function for an item."""
        return self.run(index, args, {})


class AsyncCallSetting(CallSetting):
    """Calls an ``async def`` function, and is one."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, and await it."""
        return await self.run(0, args, kwargs)


class AsyncItemSetting(ItemSetting):
    """Calls the ``async def`` function of a map, and is one."""

    async def __call__(self, index: int, *args: Any) -> Any:
        """Call the function for an item, and await it."""
        return await self.run(index, args, {})


class SeededNumbers:
    """Seeds `random` and NumPy's legacy generator in a ``with`` block. Their states from before come back after it.

    NumPy is not imported for that. If the block imports it, it is seeded then.

    Args:
        seed: what `random.seed` gets.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._hooks = PostImportHooks({NUMPY: self._seed_numpy})
        self._numpy_state: Any = None

    def __enter__(self) -> None:
        import random

        self._state = random.getstate()
        random.seed(self._seed)
        numpy = sys.modules.get(NUMPY)
        if numpy is not None:
            self._numpy_state = numpy.get_state()
        self._hooks.install()

    def _seed_numpy(self, numpy: Any) -> None:
        import random

        numpy.seed(random.Random(self._seed).getrandbits(32))  # noqa: S311  # for simulations, not for secrets

    def __exit__(self, *args: object) -> None:
        import random

        random.setstate(self._state)
        self._hooks.uninstall()
        numpy = sys.modules.get(NUMPY)
        if self._numpy_state is not None and numpy is not None:
            numpy.set_state(self._numpy_state)
        elif numpy is not None:
            numpy.seed()
