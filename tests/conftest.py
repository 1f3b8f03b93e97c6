"""What holds for every test: where temporary files go, a mark on processes, a census around each one."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.census import Census
from tests.support.helpers import Gate, Mailbox

CENSUS = pytest.StashKey[Census]()
START = pytest.StashKey[object]()
TEARDOWN_LIMIT = 60.0
"""Seconds that a test whose time is over gets for clearing up."""

HERE = Path(__file__).parent
LONG_ROOMS = ["backends", "processes", "engine"]
"""The rooms whose files take longest, longest first."""

settings.register_profile("suite", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control has what it starts in the background ignore Ctrl-C, nohup has it ignore SIGHUP, and
    # that is inherited.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    # pytest keeps the tmp_path folders of the last runs where it always does; everybody else's temporary
    # files go to a folder of this run's own, where whatever is found was left by a test.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="dragonfly-")
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None
    # A pool opens its socket for `dragonfly status` some time after its start. The tests of that name a folder.
    os.environ["DRAGONFLY_RUNTIME_DIR"] = ""
    if hasattr(config.option, "loadscopereorder"):  # of xdist: it begins with the files that have most tests
        config.option.loadscopereorder = False
    census = Census(folder)
    census.mark()
    config.stash[CENSUS] = census


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The workers of xdist must all collect the same names: `tests.support.helpers.without_addresses` makes such.
    named = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if named:
        raise pytest.UsageError(f"names of tests have addresses in them: {', '.join(named)}")
    if hasattr(config, "workerinput"):
        begin_with_long_files(items)


def begin_with_long_files(items: list[pytest.Item]) -> None:
    """Order files for several workers: a long file at the end keeps one worker busy while the others have nothing."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))

    def rank(item: pytest.Item) -> tuple[int, int]:
        room = item.path.relative_to(HERE).parts[0]
        return -slow[item.path], LONG_ROOMS.index(room) if room in LONG_ROOMS else len(LONG_ROOMS)

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    # A test that leaves something behind for a moment collects garbage. Most of that time goes into objects that exist
    # by now, and stay.
    gc.collect()
    gc.freeze()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[START] = session.config.stash[CENSUS].look()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Whatever fixtures of a wider scope kept through their tests must be gone by now."""
    census, start = session.config.stash[CENSUS], session.config.stash[START]
    left = census.left_since(start)
    if left.processes or left.files:
        print(f"\nleft behind by this run:\n{census.describe(left)}")
        census.end(left)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[CENSUS].folder, ignore_errors=True)
    del os.environ["TMPDIR"], os.environ["DRAGONFLY_RUNTIME_DIR"]
    tempfile.tempdir = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """A test's time limit rings once. Where it has, what ends the test's executors must not wait for ever either."""
    if signal.getsignal(signal.SIGALRM) not in (signal.SIG_DFL, signal.SIG_IGN) and not any(
        signal.getitimer(signal.ITIMER_REAL)
    ):
        signal.setitimer(signal.ITIMER_REAL, TEARDOWN_LIMIT)
    return (yield)


@pytest.fixture(autouse=True)
def _census(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves anything behind.

    Autouse, so it comes before a test's own fixtures and goes after them.
    """
    mark = request.node.get_closest_marker("no_census")
    if mark is not None:
        assert mark.args or mark.kwargs, "no_census wants its reason"
        yield
        return
    census = request.config.stash[CENSUS]
    before = census.look()
    yield
    left = census.left_since(before)
    if left:
        text = census.describe(left)
        census.end(left)
        pytest.fail(f"left behind by this test:\n{text}", pytrace=False)


@pytest.fixture
def census(request: pytest.FixtureRequest) -> Census:
    """This run's census, for tests that count processes themselves."""
    return request.config.stash[CENSUS]


@pytest.fixture(scope="session")
def multiprocessing_helpers() -> Iterator[None]:
    """For tests that use multiprocessing itself: its resource tracker lives as long as the process does."""
    resource_tracker.ensure_running()
    yield
    resource_tracker._resource_tracker._stop()


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[Mailbox]:
    """Hears what calls have to say."""
    with closing(Mailbox(tmp_path / "mailbox")) as mailbox:
        yield mailbox


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Holds calls until they are let through."""
    with closing(Gate(tmp_path / "gate")) as gate:
        yield gate
