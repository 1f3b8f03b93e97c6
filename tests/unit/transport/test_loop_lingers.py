"""A loop looks for what it expects before it sleeps: only then, not for long, and not again after it was in vain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from dragonfly_executor.transport import loop as loop_module
from dragonfly_executor.transport.loop import LINGER, LOOKS, MAX_ABSTENTION, WINDOW, WINDOW_PERIOD, Loop
from dragonfly_executor.transport.poller import Poller

LOOK = LINGER / 10
SHORT, LONG = LINGER / 2, LINGER * 5
NEWS = [(0, 0)]


class ScriptedPoller(Poller):
    """News comes so many seconds after each wait began; a look takes a tenth of LINGER."""

    def __init__(self, news_after: list[float]) -> None:
        self.now = 100.0
        self.sleeps: list[int] = []
        self.looks: list[int] = []
        self.waits = 0
        self._news_after = iter(news_after)
        self._news_at: float | None = None

    def begin(self) -> None:
        self._news_at = self.now + next(self._news_after)
        self.waits += 1

    def begin_contended(self) -> None:
        """News comes soon for who sleeps, and for who looks not before it has given up."""
        self._news_at = None
        self.waits += 1

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        if self._news_at is None and timeout == 0.0:
            self.looks.append(self.waits)
            self.now += LOOK
            return []
        if self._news_at is None:
            self.sleeps.append(self.waits)
            self.now += SHORT
            return NEWS
        assert self._news_at is not None
        if timeout == 0.0:
            self.looks.append(self.waits)
            self.now += LOOK
            return NEWS if self.now >= self._news_at else []
        self.sleeps.append(self.waits)
        self.now = max(self.now, self._news_at)
        return NEWS


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    monkeypatch.setattr(loop_module, "WINDOW_PERIOD", 10**9)  # these waits are in no window
    loop = Loop()
    poller = loop._poller
    yield loop
    loop._poller = poller
    loop.close()


def wait(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, news_after: list[float], expects: Callable[[int], bool]
) -> ScriptedPoller:
    poller = loop._poller = ScriptedPoller(news_after)
    monkeypatch.setattr(loop_module, "monotonic", lambda: poller.now)
    for number in range(len(news_after)):
        loop.expects_news = expects(number)
        poller.begin()
        assert loop._wait() == NEWS
    return poller


def test_a_loop_that_expects_nothing_always_sleeps(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    poller = wait(loop, monkeypatch, [SHORT] * 4, lambda number: False)
    assert (poller.looks, poller.sleeps) == ([], [1, 2, 3, 4])


def test_after_a_short_wait_it_looks_before_it_sleeps(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    poller = wait(loop, monkeypatch, [SHORT] * 3, lambda number: True)
    assert set(poller.looks) == {2, 3}
    assert poller.sleeps == [1]


def test_lingering_in_vain_ends_and_is_not_repeated_after_a_long_wait(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = wait(loop, monkeypatch, [SHORT, LONG, LONG, LONG], lambda number: True)
    assert set(poller.looks) == {2}
    assert len(poller.looks) <= LINGER / LOOK + 1
    assert poller.sleeps == [1, 2, 3, 4]


def test_a_loop_that_looks_lets_others_run(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits for the same processor would otherwise wait for the end of the looking."""
    others_ran: list[int] = []
    monkeypatch.setattr(loop_module, "_let_others_run", lambda: others_ran.append(len(poller.looks)))
    poller = ScriptedPoller([])
    monkeypatch.setattr(loop_module, "monotonic", lambda: poller.now)
    loop._poller = poller
    loop.expects_news = True
    for _ in range(2):
        poller.begin_contended()
        assert loop._wait() == NEWS
    assert LOOKS < len(poller.looks) < 2 * LOOKS
    assert others_ran == [LOOKS]


def test_where_it_is_in_vain_again_and_again_most_waits_are_free_of_it(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others need the processors waits are short as long as nobody is in their way, and not when somebody is."""
    poller = loop._poller = ScriptedPoller([])
    monkeypatch.setattr(loop_module, "monotonic", lambda: poller.now)
    loop.expects_news = True
    for _ in range(1000):
        looks = len(poller.looks)
        poller.begin_contended()
        assert loop._wait() == NEWS
        assert len(poller.looks) - looks <= LINGER / LOOK + 1
    tries = sorted(set(poller.looks))
    abstentions = [later - sooner - 1 for sooner, later in pairwise(tries)]
    growing = [2**number for number in range(MAX_ABSTENTION.bit_length())]
    assert abstentions[: len(growing)] == growing
    assert growing[-1] == MAX_ABSTENTION
    assert set(abstentions[len(growing) :]) == {MAX_ABSTENTION}


def test_a_success_halves_the_next_abstention(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    poller = loop._poller = ScriptedPoller([])
    monkeypatch.setattr(loop_module, "monotonic", lambda: poller.now)
    loop.expects_news = True

    def waits_until_a_look() -> int:
        before, looks = poller.waits, len(poller.looks)
        while len(poller.looks) == looks:
            poller.begin_contended()
            assert loop._wait() == NEWS
        return poller.waits - before - 1

    assert [waits_until_a_look() for _ in range(6)][1:] == [1, 2, 4, 8, 16]
    assert [loop._abstains, loop._next_abstention] == [32, 64]
    loop._abstains = 0
    poller._news_after = iter([SHORT, SHORT])
    for _ in range(2):  # the first one only says that waits are short again
        poller.begin()
        assert loop._wait() == NEWS
    assert loop._next_abstention == 32


def test_a_success_makes_up_for_what_was_in_vain(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    # After each that was in vain one wait passes that is short enough, and one for which it abstains.
    news_after = [SHORT, LONG, SHORT, SHORT, LONG, SHORT, SHORT]
    poller = wait(loop, monkeypatch, news_after, lambda number: True)
    assert set(poller.looks) == {2, 4, 5, 7}


def test_waits_in_which_nothing_was_expected_say_nothing_about_others(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine waits for its callers, too, and they take their time."""
    poller = wait(loop, monkeypatch, [SHORT, LONG, SHORT], lambda number: number != 1)
    assert set(poller.looks) == {3}
    assert poller.sleeps == [1, 2]


def test_what_is_due_in_the_loop_waits_for_no_news(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    poller = loop._poller = ScriptedPoller([LONG])
    monkeypatch.setattr(loop_module, "monotonic", lambda: poller.now)
    poller.begin()
    loop.call_soon(lambda: None)
    assert loop._wait() == []
    assert poller.sleeps == []


def test_in_a_window_it_looks_whatever_happened_before(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise two loops that both skip most waits would never look at the same time."""
    monkeypatch.setattr(loop_module, "WINDOW_PERIOD", WINDOW_PERIOD)
    poller = loop._poller = ScriptedPoller([])
    monkeypatch.setattr(loop_module, "monotonic", lambda: poller.now)
    loop.expects_news = True
    loop._abstains, loop._next_abstention, loop._was_short = 64, 64, False

    def looks_at(windows: int) -> bool:
        poller.now = (WINDOW_PERIOD * 1000 + windows + 0.5) * WINDOW
        looks = len(poller.looks)
        poller.begin_contended()
        assert loop._wait() == NEWS
        return len(poller.looks) > looks

    assert [looks_at(windows) for windows in range(WINDOW_PERIOD + 1)] == [True] + [False] * (WINDOW_PERIOD - 1) + [
        True
    ]


def test_news_in_a_window_ends_the_skipping(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "WINDOW_PERIOD", WINDOW_PERIOD)
    poller = loop._poller = ScriptedPoller([SHORT, SHORT])
    poller.now = WINDOW_PERIOD * 1000 * WINDOW
    monkeypatch.setattr(loop_module, "monotonic", lambda: poller.now)
    loop.expects_news = True
    loop._abstains = 64
    poller.begin()
    assert loop._wait() == NEWS
    poller.now += WINDOW
    poller.begin()
    assert loop._wait() == NEWS
    assert set(poller.looks) == {1, 2}
    assert poller.sleeps == []
