"""What the options accept, and in which words they refuse."""

from __future__ import annotations

import concurrent.futures
import inspect
import numbers
import pickle
import sys
from datetime import timedelta
from fractions import Fraction
from functools import partial
from typing import Any

import pytest

from dragonfly_executor import Backend, BootRequest, CallOptions, DragonflyExecutor, LocalBackend, Node, Pool
from dragonfly_executor.api.assembly import plan_engine
from dragonfly_executor.core.machine import PoolLimits
from dragonfly_executor.engine import option_keywords
from dragonfly_executor.engine.options import PoolOptions
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.helpers import PATIENCE, without_addresses
from tests.support.payloads import echo

FakePool = partial(Pool, "options", min=0, max=1)


def limits_of(backend: Backend, **given: Any) -> PoolLimits:
    """The limits that the core enforces for a pool with these options."""
    return plan_engine("limits", (backend,), given, {}).make()._machine.pool.limits


@pytest.mark.parametrize(
    "options",
    [
        {"max_workers": 0},
        {"max_workers": -1},
        {"initializer": 123},
        {"max_tasks_per_child": 0},
        {"max_tasks_per_child": -3},
        {"max_tasks_per_child": "x"},
    ],
    ids=str,
)
def test_process_pool_executors_arguments_are_refused_in_its_words(options: dict[str, Any]) -> None:
    """The same errors."""
    with pytest.raises((ValueError, TypeError)) as theirs:
        concurrent.futures.ProcessPoolExecutor(**options)
    with pytest.raises(theirs.type) as ours:
        DragonflyExecutor(**options)
    assert str(ours.value) == str(theirs.value)


def test_process_pool_executors_arguments_come_first_and_in_its_order() -> None:
    """Exchanging the class is the whole change."""
    theirs = list(inspect.signature(concurrent.futures.ProcessPoolExecutor).parameters.values())
    ours = list(inspect.signature(DragonflyExecutor).parameters.values())
    assert [(p.name, p.kind, p.default) for p in ours[: len(theirs)]] == [(p.name, p.kind, p.default) for p in theirs]


def test_the_types_of_options_are_those_of_the_sets() -> None:
    """An option is stated in its set, and its type beside it: neither without the other."""
    assert set(option_keywords.CallKeywords.__annotations__) == set(CallOptions.OPTIONS)
    assert set(option_keywords.types_by_name()) == {*PoolOptions.OPTIONS, *CallOptions.OPTIONS}
    assert not PoolOptions.OPTIONS.keys() & CallOptions.OPTIONS.keys()


@pytest.mark.parametrize(
    ("made", "own", "keywords"),
    [
        (Pool, ["name", "backend"], option_keywords.PoolKeywords),
        (DragonflyExecutor, ["mp_context", "backend", "pool"], option_keywords.ExecutorKeywords),
    ],
    ids=["Pool", "DragonflyExecutor"],
)
def test_a_signature_lists_each_option_once_with_its_default(made: Any, own: list[str], keywords: Any) -> None:
    """What a type checker knows from ``**options``, and what `inspect` shows, are one list."""
    parameters = inspect.signature(made).parameters
    named = inspect.signature(made.__init__).parameters.keys() - {"self", "options"}
    assert not named & keywords.__annotations__.keys()
    assert named | keywords.__annotations__.keys() == parameters.keys()
    options = PoolOptions.OPTIONS | CallOptions.OPTIONS
    assert parameters.keys() - own == options.keys()
    defaults = {name: parameters[name].default for name in options}
    dragonflys = {"min": inspect.Parameter.empty, "max": inspect.Parameter.empty, "max_concurrency": 100, "timeout": 30}
    expected = {name: option.default for name, option in options.items()} | (dragonflys if made is Pool else {})
    assert defaults == expected
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters.values())


def test_a_subclass_has_the_signature_of_its_own_constructor() -> None:
    class Same(DragonflyExecutor):
        pass

    class Other(DragonflyExecutor):
        def __init__(self, size: int) -> None:
            super().__init__(size)

    assert inspect.signature(Same) == inspect.signature(DragonflyExecutor)
    assert list(inspect.signature(Other).parameters) == ["size"]
    assert inspect.signature(CallOptions).parameters.keys() == CallOptions.OPTIONS.keys()


@pytest.mark.parametrize("method", ["submit", "shutdown"])
def test_methods_take_what_the_standard_librarys_take(method: str) -> None:
    theirs = inspect.signature(getattr(concurrent.futures.Executor, method)).parameters.values()
    ours = inspect.signature(getattr(DragonflyExecutor, method)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]


def test_a_context_of_multiprocessing_is_accepted_and_has_no_effect(make: MakeExecutor) -> None:
    """Design §4."""
    assert make(1, mp_context=object()).submit(echo, 1).result(PATIENCE) == 1


def _generator(*_: Any) -> Any:
    yield


async def _asynchronous(*_: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"maxx": 1}, TypeError, "no such option: 'maxx'; the options are .*max_workers"),
        ({"call": None}, TypeError, "no such option: 'call'"),
        ({"name": "x"}, TypeError, "no such option: 'name'"),
        ({"max": 0}, ValueError, "max must be at least 1, not 0"),
        ({"max": 1.5}, TypeError, "max must be a whole number, not float"),
        ({"max": True}, TypeError, "max must be a whole number, not bool"),
        ({"min": -1}, ValueError, "min must be at least 0"),
        ({"min": 2, "max": 1}, ValueError, "min must be at most max"),
        ({"max_concurrency": 0}, ValueError, "max_concurrency must be greater than 0"),
        ({"max_concurrency": "4"}, TypeError, "max_concurrency"),
        ({"timeout": -1}, ValueError, "timeout must be greater than 0"),
        ({"timeout": 0}, ValueError, "timeout must be greater than 0"),
        ({"timeout": "30"}, TypeError, "timeout must be a number of seconds or a timedelta, not str"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"queue_timeout": timedelta(seconds=-1)}, ValueError, "queue_timeout"),
        ({"run_timeout": True}, TypeError, "run_timeout"),
        ({"boot_timeout": 0}, ValueError, "boot_timeout must be greater than 0"),
        ({"boot_timeout": None}, TypeError, "boot_timeout"),
        ({"shutdown_timeout": -0.1}, ValueError, "shutdown_timeout must be at least 0"),
        ({"idle_shutdown_after": -1}, ValueError, "idle_shutdown_after"),
        ({"idle_shutdown_after": (1, 2)}, TypeError, "or a pair \\(seconds, check\\) whose check is callable"),
        ({"idle_shutdown_after": (1,)}, TypeError, "or a pair \\(seconds, check\\) whose check is callable"),
        ({"min_idle_shutdown_after": "x"}, TypeError, "min_idle_shutdown_after"),
        ({"placement": "first"}, ValueError, "placement must be 'spread' or 'pack', not 'first'"),
        ({"scaling": "slow"}, ValueError, "scaling must be 'fast' or 'thrifty', not 'slow'"),
        ({"scaling": None}, ValueError, "scaling must be 'fast' or 'thrifty', not None"),
        ({"lease": 0}, ValueError, "lease must be greater than 0"),
        ({"heartbeat": 0}, ValueError, "heartbeat must be greater than 0"),
        ({"dead_after": None}, TypeError, "dead_after"),
        ({"on_grow_start": 1}, TypeError, "on_grow_start must be a callable"),
        ({"on_grow_end": 1}, TypeError, "on_grow_end must be a callable"),
        ({"on_shrink": 1}, TypeError, "on_shrink must be a callable"),
        ({"on_event": 1}, TypeError, "on_event must be a callable"),
        ({"boot_wait": 1}, TypeError, "boot_wait must be a callable"),
        ({"on_event": _asynchronous}, TypeError, "on_event must be a plain function"),
        ({"output": _asynchronous}, TypeError, "output must be a plain function"),
        ({"initializer": _generator}, TypeError, "initializer must be a plain function"),
        ({"idle_shutdown_after": (1, _asynchronous)}, TypeError, "the check of idle_shutdown_after must be a plain"),
        ({"log": "loud"}, ValueError, "log must be False, True or a logging level"),
        ({"serializer": "json"}, ValueError, "serializer must be 'cloudpickle', 'dill' or 'pickle'"),
        ({"serializer": 1}, TypeError, "serializer must be a name or have dumps and loads"),
        ({"output": "both"}, ValueError, "must be 'inherit', 'tag', 'capture', 'drop' or a callable, not 'both'"),
        ({"output": None}, TypeError, "output must be .* or a callable, not NoneType"),
        ({"max_payload": 0}, ValueError, "max_payload must be at least 1"),
        (
            {"read_only_arguments": True, "serializer": pickle},
            ValueError,
            "read_only_arguments=True and a serializer object exclude each other",
        ),
        ({"compression": "lz4"}, ValueError, "compression must be None or 'auto', not 'lz4'"),
        ({"compression": True}, ValueError, "compression must be None or 'auto', not True"),
        ({"max_boot_failures": 0}, ValueError, "max_boot_failures must be at least 1"),
        ({"retries": -1}, ValueError, "retries must be at least 0"),
        ({"retry_on": (1,)}, TypeError, "retry_on must hold exception types"),
        ({"retry_on": "ValueError"}, TypeError, "retry_on must hold exception types"),
        ({"retry_wait": 3}, TypeError, "retry_wait must be a callable"),
        ({"priority": "high"}, TypeError, "priority must be a number, not str"),
        ({"priority": True}, TypeError, "priority must be a number, not bool"),
        ({"priority": float("nan")}, ValueError, "priority must be finite, not nan"),
        ({"priority": float("inf")}, ValueError, "priority must be finite, not inf"),
        ({"priority": 10**400}, ValueError, "priority must be finite"),
        ({"key": ["a"]}, TypeError, "key must be hashable, such as a string or a number: .*list"),
    ],
    ids=without_addresses,
)
def test_an_option_that_makes_no_sense_is_refused_where_it_is_given(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        DragonflyExecutor(**options)


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_pools_name_is_a_text(name: Any) -> None:
    with pytest.raises(ValueError, match="name must be a string"):
        Pool(name, min=0, max=1)


def test_a_pool_has_dragonflys_defaults(make_pool: MakePool) -> None:
    """Design §4, the table."""
    with Pool("defaults", min=0, max=2, backend=FakeBackend()) as pool:
        options = pool._engine.options
        assert pool.call_options.timeout == 30.0
        assert (options.max_concurrency, options.boot_timeout, options.shutdown_timeout) == (100, 30.0, 30.0)
        assert (options.idle_after, options.idle_check, options.min_idle_shutdown_after) == (30.0, None, None)
        assert (options.single_use, options.log, options.max_workers) == (False, False, None)
        assert options.output == "inherit"


def test_an_executor_has_the_defaults_of_a_drop_in(make: MakeExecutor) -> None:
    """Design §4, the table: one runner here, with as many slots as there are CPUs, and no limit on calls."""
    options = make(None).pool._engine.options
    assert (options.min, options.max, options.call.timeout) == (0, 1, None)
    assert options.max_concurrency is None


def test_max_workers_are_the_slots_of_the_one_local_runner(make: MakeExecutor) -> None:
    """Design §4, the table."""
    executor = make(7)
    executor.submit(echo, 1).result(PATIENCE)
    assert [runner.slots for runner in executor.pool.stats().runners] == [7]


@numbers.Integral.register
class Four:
    """A whole number of somebody else's, as numpy has them: no `int`, but one by `numbers`."""

    def __int__(self) -> int:
        return 4

    def __float__(self) -> float:
        return 4.0

    def __lt__(self, other: int) -> bool:
        return other > 4


def test_numbers_of_others_are_numbers() -> None:
    four: Any = Four()
    with FakePool(max=four, timeout=four, boot_timeout=Fraction(1, 2), retries=four, backend=FakeBackend()) as pool:
        options = pool._engine.options
        assert [options.call.timeout, options.boot_timeout, options.call.retries] == [4.0, 0.5, 4]
        assert [type(value) for value in (options.call.timeout, options.call.retries)] == [float, int]
        assert pool.stats().max == 4
    with DragonflyExecutor(four, backend=FakeBackend()) as executor:
        assert executor.submit(echo, 1).result(PATIENCE) == 1


def test_durations_may_be_timedeltas() -> None:
    with FakePool(timeout=timedelta(minutes=2), lease=timedelta(seconds=9), backend=FakeBackend()) as pool:
        assert pool.call_options.timeout == 120.0
        assert pool._engine.options.lease == 9.0


def test_a_backend_that_knows_no_max_wants_one() -> None:
    """Design §4, the table: required where every runner costs money."""

    class Cloud(Backend):
        name = "cloud"

        def boot(self, request: BootRequest) -> Node:
            raise NotImplementedError

    with pytest.raises(ValueError, match="max is required with the cloud backend"):
        DragonflyExecutor(backend=Cloud())
    DragonflyExecutor(backend=Cloud(), max=3)


class Priced(FakeBackend):
    """A backend whose runners cost money."""

    def price(self) -> float | None:
        return 0.01


@pytest.mark.parametrize(
    ("backend", "placement", "packs"),
    [
        (FakeBackend(), None, False),
        (FakeBackend(), "pack", True),
        (Priced(), None, True),
        (Priced(), "spread", False),
        (LocalBackend(), None, False),
    ],
)
def test_calls_are_packed_if_the_user_or_the_backend_says_so(backend: Backend, placement: str, packs: bool) -> None:
    assert limits_of(backend, max=3, placement=placement).packs is packs


@pytest.mark.parametrize(
    ("given", "thrifty", "learns_idle"),
    [
        ({}, False, False),
        ({"scaling": "thrifty"}, True, True),
        ({"scaling": "thrifty", "idle_shutdown_after": 30}, True, False),
        ({"scaling": "fast", "idle_shutdown_after": 30}, False, False),
    ],
)
def test_a_thrifty_pool_learns_the_idle_time_that_the_user_has_not_set(
    given: dict[str, Any], thrifty: bool, learns_idle: bool
) -> None:
    limits = limits_of(FakeBackend(), **given)
    assert (limits.thrifty, limits.learns_idle) == (thrifty, learns_idle)


def test_a_thrifty_pool_runs_its_calls(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend(slots=1), max=5, scaling="thrifty")
    assert list(pool.map(echo, range(50))) == list(range(50))
    assert pool.stats().runners_up <= 5


def test_a_backend_states_a_placement_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeBackend, "default_placement", lambda self: "first")
    with pytest.raises(ValueError, match=r"default_placement\(\) of the fake backend must be 'spread' or 'pack'"):
        DragonflyExecutor(backend=FakeBackend())


def test_the_slots_of_a_runner_are_what_it_reports_where_nobody_says_it() -> None:
    """Design §4, the table: the CPU count of a remote runner."""

    class Reporting(FakeBackend):
        def default_slots(self) -> None:  # type: ignore[override]
            return None

    with DragonflyExecutor(backend=Reporting()) as executor:
        executor.submit(echo, 1).result(PATIENCE)
        slots = executor.pool.stats().runners[0].slots
    from dragonfly_executor.protocol.versions import usable_cpus

    assert slots == usable_cpus()


@pytest.mark.parametrize(
    "options",
    [{"max_workers": 2}, {"initializer": print}, {"max_tasks_per_child": 1}, {"max": 3}, {"backend": FakeBackend()}],
    ids=str,
)
def test_an_executor_on_a_pool_takes_none_of_the_pools_options(options: dict[str, Any]) -> None:
    with FakePool(backend=FakeBackend()) as pool, pytest.raises(TypeError, match="takes no pool options"):
        DragonflyExecutor(pool=pool, **options)


def test_an_executor_on_a_pool_leaves_it_alone() -> None:
    """Design §4: pool=."""
    with FakePool(backend=FakeBackend()) as pool:
        with DragonflyExecutor(pool=pool) as executor:
            assert executor.submit(echo, 1).result(PATIENCE) == 1
        assert executor.pool is pool
        assert pool.call(echo, 2) == 2


def test_a_view_changes_what_it_is_told_and_nothing_else() -> None:
    """Design §4: options sit on a view, which is an Executor itself."""
    with FakePool(timeout=5, retries=1, backend=FakeBackend()) as pool, DragonflyExecutor(pool=pool) as executor:
        view = executor.options(timeout=9).options(queue_timeout=1)
        assert isinstance(view, concurrent.futures.Executor)
        assert (view._options.timeout, view._options.queue_timeout, view._options.retries) == (9.0, 1.0, 1)
        assert executor._options.timeout == 5.0
        view.shutdown()
        assert executor.submit(echo, 1).result(PATIENCE) == 1
        for wrong in ({"min": 1}, {"timeouts": 1}):
            with pytest.raises(TypeError, match="no such call option"):
                executor.options(**wrong)


def test_a_boot_takes_as_long_as_the_backend_says_unless_the_pool_does(make_pool: MakePool) -> None:
    class Slow(FakeBackend):
        default_boot_timeout = 90.0

    assert make_pool(backend=Slow())._engine.options.boot_timeout == 90.0
    assert make_pool(backend=Slow(), boot_timeout=7)._engine.options.boot_timeout == 7.0
    assert make_pool(backend=FakeBackend())._engine.options.boot_timeout == 30.0


def test_compression_without_a_codec_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("lz4", "zstandard", "_zstd"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r"dragonfly-executor\[lz4\]' or 'dragonfly-executor\[zstd\]'"):
        DragonflyExecutor(compression="auto")
