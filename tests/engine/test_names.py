"""Pools by name, and the backend that they get where none is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dragonfly_executor import CallTimeoutError, DragonflyExecutor, LocalBackend, Pool, call, cast, configure
from dragonfly_executor.api.pool import registry
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakePool
from tests.support.helpers import PATIENCE, Mailbox
from tests.support.payloads import agent_pid, hold_for_good, tell


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """Whatever a test configures is forgotten."""
    before = registry._backends
    yield
    registry._backends = before


def test_a_pool_is_found_by_its_name_from_anywhere(make_pool: MakePool) -> None:
    """Design §4: call(pool, func)."""
    pool = make_pool("media")
    word = "closures travel"
    assert call("media", lambda: word.upper()) == "CLOSURES TRAVEL"
    assert call(pool, agent_pid) == call("media", agent_pid)


def test_cast_runs_it_and_waits_for_nothing(make_pool: MakePool, mailbox: Mailbox) -> None:
    """Design §4: cast(pool, func), and without a limit on its time."""
    pool = make_pool("media", timeout=0.001)
    path = mailbox.path
    assert cast("media", lambda: tell(path, "by name")) is None
    assert mailbox.read() == "by name"
    assert pool.cast(tell, path, "by hand") is None
    assert mailbox.read() == "by hand"


def test_an_unknown_name_is_an_error_that_names_the_known_ones(make_pool: MakePool) -> None:
    make_pool("audio")
    make_pool("video")
    with pytest.raises(KeyError, match=r"no pool is named 'media'; the pools are: .*audio, .*video"):
        call("media", int)
    with pytest.raises(KeyError, match="no pool is named 'media'"):
        cast("media", int)


def test_a_name_can_be_had_once(make_pool: MakePool) -> None:
    """The registry of named pools."""
    first = make_pool("media")
    with pytest.raises(ValueError, match="a pool named 'media' exists already"):
        Pool("media", min=0, max=1)
    assert call("media", agent_pid) == first.call(agent_pid)


def test_a_name_is_free_again_after_a_shutdown(make_pool: MakePool) -> None:
    make_pool("media").shutdown()
    second = make_pool("media", max=3)
    assert registry.find("media") is second


def test_a_pool_that_could_not_be_made_has_no_name(make_pool: MakePool) -> None:
    with pytest.raises(ValueError, match="max must be"):
        Pool("media", min=0, max=0)
    make_pool("media")


def test_an_executors_own_pool_is_nobodys_by_name() -> None:
    with DragonflyExecutor(1) as executor, pytest.raises(KeyError):
        call(executor.pool.name, int)


def test_call_takes_a_budget_of_its_own(make_pool: MakePool, mailbox: Mailbox) -> None:
    """Design §4: timeout=."""
    make_pool("media", timeout=3600)
    path = mailbox.path
    with pytest.raises(CallTimeoutError, match=r"0\.2 s"):
        call("media", lambda: hold_for_good(path), timeout=0.2)
    assert call("media", lambda: 1, timeout=PATIENCE) == 1


def test_the_pools_budget_holds_where_call_names_none(make_pool: MakePool, mailbox: Mailbox) -> None:
    make_pool("media", timeout=0.2)
    path = mailbox.path
    with pytest.raises(CallTimeoutError, match=r"0\.2 s"):
        call("media", lambda: hold_for_good(path))


def test_configure_sets_the_backend_of_pools_that_name_none(unconfigured: None, make_pool: MakePool) -> None:
    """Design §4: configure(backend=)."""
    backend = FakeBackend()
    configure(backend=backend)
    make_pool("media").call(int)
    with DragonflyExecutor() as executor:
        executor.submit(int).result(PATIENCE)
    assert [request.parent.pool for request in backend.requests] == ["media", executor.pool.name]
    own = FakeBackend()
    make_pool("own", backend=own).call(int)
    assert len(own.nodes) == 1
    assert len(backend.nodes) == 2


@pytest.mark.parametrize("wrong", [None, "fly", LocalBackend])
def test_configure_wants_a_backend(unconfigured: None, wrong: object) -> None:
    with pytest.raises(TypeError, match="backend must be a Backend"):
        configure(backend=wrong)  # type: ignore[arg-type]
    if wrong is not None:
        with pytest.raises(TypeError, match="backend must be a Backend"):
            Pool("media", min=0, max=1, backend=wrong)  # type: ignore[arg-type]


def backend_of_new_pool() -> object:
    """The backend of a pool that names none."""
    executor = DragonflyExecutor(1)
    (tier,) = executor.pool._engine.tiers
    executor.shutdown()
    return tier.backend


def test_configure_is_undone_at_the_end_of_a_block(unconfigured: None) -> None:
    outer, inner = FakeBackend(), FakeBackend()
    with configure(backend=outer):
        with pytest.raises(LookupError), configure(backend=[inner]):
            assert backend_of_new_pool() is inner
            configure(backend=FakeBackend())  # by the program under test
            raise LookupError
        assert backend_of_new_pool() is outer
        executor = DragonflyExecutor(1)
    assert isinstance(backend_of_new_pool(), LocalBackend)
    assert executor.submit(abs, -1).result(PATIENCE) == 1  # it keeps its backend
    assert len(outer.nodes) == 1
    executor.shutdown()


def test_a_configure_that_is_refused_changes_nothing(unconfigured: None) -> None:
    with configure(backend=(backend := FakeBackend())):
        with pytest.raises(TypeError), configure(backend=LocalBackend):  # type: ignore[arg-type]
            pass
        assert backend_of_new_pool() is backend


def test_without_configure_it_is_the_local_backend(make_pool: MakePool) -> None:
    assert isinstance(make_pool()._engine.tiers[0].backend, LocalBackend)
