"""Seeds and context variables of calls; the program's warnings filters and logging levels in slots."""

from __future__ import annotations

import asyncio
import logging
import random
import warnings
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest

from dragonfly_executor.serialization.program_settings import settings
from tests.processes.conftest import Make
from tests.support import setting_calls
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE

numpy: Any = pytest.importorskip("numpy")


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """The random numbers of other tests stay as they are."""
    before, numpys = random.getstate(), numpy.random.get_state()
    yield
    random.setstate(before)
    numpy.random.set_state(numpys)


def expected(seed: int, index: int) -> tuple[float, float]:
    """The numbers that the documentation promises."""
    random.seed(f"{seed}:{index}")
    numpy.random.seed(random.Random(f"{seed}:{index}").getrandbits(32))
    return random.random(), float(numpy.random.random())


def test_the_random_numbers_of_a_call_follow_from_its_seed(make: Make) -> None:
    """Whatever the chunks, the slots and the calls before."""
    executor = make(2)
    seeded = executor.options(seed=7)
    items = [expected(7, index) for index in range(6)]
    assert seeded.submit(setting_calls.numbers).result(PATIENCE) == items[0]
    assert seeded.submit(setting_calls.numbers_later).result(PATIENCE) == items[0]
    for options in ({}, {"chunksize": 4}, {"chunksize": "auto"}, {"ordered": False}):
        found = list(seeded.map(setting_calls.numbers, range(6), timeout=PATIENCE, **options))
        assert sorted(found) == sorted(items)
        assert "ordered" in options or found == items

    async def awaited() -> list[Any]:
        return [value async for value in seeded.amap(setting_calls.numbers, range(6))]

    assert asyncio.run(awaited()) == items
    assert executor.options(seed=8).submit(setting_calls.numbers).result(PATIENCE) == expected(8, 0)


@pytest.mark.parametrize("fn", [setting_calls.stream_of, setting_calls.later_stream_of])
def test_a_stream_has_its_seed_and_its_context_from_the_first_item_to_the_last(make: Make, fn: Any) -> None:
    executor = make(1)
    random.seed("7:0")
    numpy.random.seed(random.Random("7:0").getrandbits(32))
    draws = [(random.random(), float(numpy.random.random())) for _ in range(3)]

    def taken() -> list[Any]:
        setting_calls.REQUEST.set("first")
        stream = executor.options(seed=7, context_vars=setting_calls.REQUEST, stream_buffersize=1).stream(fn, 3)
        setting_calls.REQUEST.set("second")
        return list(stream)

    assert copy_context().run(taken) == [(draw, ("first", "unset")) for draw in draws]
    (other,) = executor.stream(fn, 1)
    assert other[0] != draws[0]
    assert other[1] == ("none", "unset")


def test_calls_without_a_seed_are_not_touched_by_seeds(make: Make) -> None:
    executor = make(1)
    before = executor.submit(setting_calls.state).result(PATIENCE)
    executor.options(seed=7).submit(setting_calls.numbers).result(PATIENCE)
    assert executor.submit(setting_calls.state).result(PATIENCE) == before
    first = executor.submit(setting_calls.numbers).result(PATIENCE)
    assert first[1] != expected(7, 0)[1]


@pytest.mark.parametrize("backend", [None, DialingBackend], ids=["here", "dial-back"])
def test_calls_see_the_context_variables_that_were_asked_for(make: Make, backend: Any) -> None:
    executor = make(1, backend=backend() if backend else None)

    def submits() -> None:
        """Runs in a context of its own."""
        view = executor.options(context_vars=(setting_calls.REQUEST, setting_calls.UNSET))
        for value in ("first", "second"):
            setting_calls.REQUEST.set(value)
            assert view.submit(setting_calls.context).result(PATIENCE) == (value, "unset")
        assert view.submit(setting_calls.context_later).result(PATIENCE) == ("second", "unset")
        setting_calls.UNSET.set("set")
        only = executor.options(context_vars=setting_calls.UNSET)
        assert only.submit(setting_calls.context).result(PATIENCE) == ("none", "set")
        assert list(view.map(setting_calls.context, range(3), chunksize=2)) == [("second", "set")] * 3
        assert executor.submit(setting_calls.context).result(PATIENCE) == ("none", "unset")

    copy_context().run(submits)


def test_warnings_filters_and_logging_levels_hold_in_slots(make: Make) -> None:
    logger, before = logging.getLogger("tests.settings.of.a.logger"), logging.root.level
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.filterwarnings("error", "from a", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        logger.setLevel(17)
        try:
            executor = make(1)
            assert executor.submit(setting_calls.warned).result(PATIENCE) == "UserWarning shown or ignored"
            assert executor.submit(setting_calls.levels, logger.name, "other").result(PATIENCE) == [17, 0]
        finally:
            logger.setLevel(logging.NOTSET)
    assert logging.root.level == before


def test_the_settings_of_an_interpreter_do_not_travel() -> None:
    with warnings.catch_warnings():
        warnings.filters[:] = [  # type: ignore[index]
            ("default", None, DeprecationWarning, "__main__", 0),
            *(
                ("ignore", None, kind, None, 0)
                for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
            ),
        ]
        assert "warnings" not in settings()


@pytest.mark.parametrize(
    "options", [{"seed": 1.5}, {"seed": True}, {"context_vars": "REQUEST"}, {"context_vars": ["REQUEST"]}]
)
def test_other_values_are_refused(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        make(1).options(**options)
