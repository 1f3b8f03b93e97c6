"""`map(..., progress=True)`: one bar, whatever there is to draw it on."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from types import ModuleType, SimpleNamespace

import pytest

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.api import progress_display
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakeExecutor
from tests.support.payloads import echo


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ValueError(number)
    return number


Redirect = Callable[[io.StringIO], io.StringIO]


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def executor(make: MakeExecutor) -> DragonflyExecutor:
    return make(None, backend=FakeBackend())


@pytest.fixture
def redirect(monkeypatch: pytest.MonkeyPatch) -> Redirect:
    """Makes a file this process's stderr. In the test's own phase, because pytest replaces it before each phase."""

    def to(file: io.StringIO) -> io.StringIO:
        monkeypatch.setattr(sys, "stderr", file)
        return file

    return to


def test_lines_without_a_terminal(executor: DragonflyExecutor, redirect: Redirect) -> None:
    file = redirect(io.StringIO())
    assert list(executor.map(echo, range(20), progress=True)) == list(range(20))
    assert list(executor.map(echo, range(20), progress="numbers", chunksize=3, ordered=False))
    assert list(executor.map(echo, iter(range(5)), progress="some", chunksize="auto")) == list(range(5))
    assert list(executor.map(echo, [], progress="none")) == []
    found = list(executor.map(fail_at_three, range(5), progress="errors", return_exceptions=True, chunksize=2))
    assert sum(isinstance(one, ValueError) for one in found) == 1
    with pytest.raises(ValueError, match="3"):
        list(executor.map(fail_at_three, range(5), progress="raises"))
    assert list(islice(executor.map(echo, range(10), progress="closed"), 2)) == [0, 1]
    lines = [line.partition(" items, ")[0] for line in file.getvalue().splitlines()]
    assert lines == [
        "echo: 20 of 20 (100 %)",
        "numbers: 20 of 20 (100 %)",
        "some: 5",
        "none: 0 of 0",
        "errors: 5 of 5 (100 %)",
        "raises: 3 of 5 (60 %)",
        "closed: 2 of 10 (20 %)",
    ]
    counts = [line.rpartition("/s, ")[2] for line in file.getvalue().splitlines()]
    assert counts[0] == "0 failed, 1 runner"
    assert [counts[4], counts[5]] == ["1 failed, 1 runner"] * 2


def test_a_line_every_ten_seconds() -> None:
    file, now = io.StringIO(), [0.0]
    lines = progress_display.PlainLines("text", 4, file, lambda: now[0])
    for second in range(25):
        now[0] = second
        lines.update(second // 10, 0, 2)
    lines.close()
    assert file.getvalue().splitlines() == [
        "text: 1 of 4 (25 %) items, 0.1/s, 0 failed, 2 runners",
        "text: 2 of 4 (50 %) items, 0.1/s, 0 failed, 2 runners",
        "text: 2 of 4 (50 %) items, 0.0833/s, 0 failed, 2 runners",
    ]


@pytest.mark.parametrize("library", ["tqdm", "rich"])
def test_a_bar_on_a_terminal(
    executor: DragonflyExecutor, redirect: Redirect, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = redirect(Terminal())
    pytest.importorskip(library, reason=f"{library} is not installed here")
    if library == "tqdm":
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setenv("COLUMNS", "150")
    assert list(executor.map(echo, range(20), progress="my [b] map")) == list(range(20))
    text = terminal.getvalue()
    assert "my [b] map" in text
    assert "20/20" in text
    assert "0 failed, 1 runner" in text


def test_without_a_library_there_are_lines(
    executor: DragonflyExecutor, redirect: Redirect, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = redirect(Terminal())
    for module in ("rich.console", "rich.progress", "tqdm"):
        monkeypatch.setitem(sys.modules, module, None)
    assert list(executor.map(echo, range(3), progress=True)) == [0, 1, 2]
    assert terminal.getvalue().startswith("echo: 3 of 3 (100 %) items, ")


def test_a_widget_in_a_notebook(
    executor: DragonflyExecutor, redirect: Redirect, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = redirect(io.StringIO())
    widgets: list[Widget] = []

    class Widget:
        """What tqdm.notebook has."""

        def __init__(self, total: int, desc: str, **_options: object) -> None:
            self.n, self.total, self.text, self.postfix = 0, total, desc, ""
            widgets.append(self)

        def set_postfix_str(self, text: str, refresh: bool) -> None:
            self.postfix = text

        def update(self, count: int) -> None:
            self.n += count

        def refresh(self) -> None:
            pass

        def close(self) -> None:
            self.text += ", closed"

    notebook = ModuleType("tqdm.notebook")
    notebook.tqdm = Widget  # type: ignore[attr-defined]
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipywidgets", ModuleType("ipywidgets"))
    monkeypatch.setitem(sys.modules, "tqdm.notebook", notebook)
    assert list(executor.map(echo, range(3), progress=True)) == [0, 1, 2]
    (widget,) = widgets
    assert (widget.n, widget.total, widget.text) == (3, 3, "echo, closed")
    assert widget.postfix == "0 failed, 1 runner"
    # Without ipywidgets there are lines.
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert list(executor.map(echo, range(3), progress=True)) == [0, 1, 2]
    assert file.getvalue().startswith("echo: 3 of 3")


def test_a_display_that_fails_harms_nothing(executor: DragonflyExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stderr in (closed, None):
        monkeypatch.setattr(sys, "stderr", stderr)
        assert list(executor.map(echo, range(3), progress=True)) == [0, 1, 2]


def test_a_map_without_results_taken_draws_nothing(executor: DragonflyExecutor, redirect: Redirect) -> None:
    file = redirect(io.StringIO())
    results: Iterator[int] = executor.map(echo, range(3), progress=True)
    results.close()  # type: ignore[attr-defined]
    del results
    assert file.getvalue() == ""
    with pytest.raises(TypeError, match="progress must be"):
        executor.map(echo, range(3), progress=5)  # type: ignore[call-overload]


def test_control_characters_do_not_reach_the_terminal(redirect: Redirect) -> None:
    file = redirect(io.StringIO())
    make: Callable[[str, int | None], progress_display.Display] = progress_display.make_display
    display = make("a\x1b[2J\x07b", None)
    display.update(1, 0, 1)
    display.close()
    assert "\x1b[2J" not in file.getvalue()
    assert "\x07" not in file.getvalue()
