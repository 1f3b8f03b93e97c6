"""The view of ``dragonfly top``: the pools' reports, the order of the calls, the selected call. No terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dragonfly_executor.cli.status import figures
from dragonfly_executor.cli.status.client import Answers, PoolAddress
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.terminal_text import escape_controls

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

KEYS = "q quit  s sort  up/down select  k kill  o output  p pause"
MOST_POOL_LINES = 8
"""Number of pools whose figures are shown. The calls of all pools are in one table."""


class Entry(NamedTuple):
    """A call in the table: the address of its pool, the pool's report, and the call."""

    address: PoolAddress
    report: Mapping[str, Any]
    call: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, int]:
        """The name of the call in all reports: its socket and its number."""
        return str(self.address.path), self.call["id"]


def _age(entry: Entry) -> float:
    running_for: float | None = entry.call["running_for"]
    age: float = entry.call["age"]
    return -(age if running_for is None else running_for)


ORDERS: dict[str, Callable[[Entry], Any]] = {
    "time": lambda entry: (entry.call["state"] != "running", _age(entry)),
    "function": lambda entry: (entry.call["function"], _age(entry)),
    "runner": lambda entry: (entry.report["pid"], entry.call["runner"], _age(entry)),
    "pool": lambda entry: (entry.report["pool"], entry.report["pid"], _age(entry)),
}


class TopView:
    """The state of the view.

    Attributes:
        order: the key of `ORDERS` by which calls are sorted.
        message: the last line: what the last key has done, or a question.
        output: the output of a call that is shown in place of the table, with its title; None for the table.
        is_paused: whether the reports stay as they are.
        doomed: the call that a question asks to kill; None if there is no question.
    """

    def __init__(self) -> None:
        self.order = "time"
        self.message = ""
        self.output: tuple[str, str] | None = None
        self.is_paused = False
        self.doomed: Entry | None = None
        self._answers = Answers()
        self._selected: tuple[str, int] | None = None

    def update(self, answers: Answers) -> None:
        """Show these reports from now on."""
        self._answers = answers

    def entries(self) -> list[Entry]:
        """Return all calls in their order."""
        found = [Entry(address, report, call) for address, report in self._answers.reports for call in report["calls"]]
        return sorted(found, key=ORDERS[self.order])

    def selected(self) -> Entry | None:
        """Return the selected call; the first one if that has ended."""
        entries = self.entries()
        return next((entry for entry in entries if entry.key == self._selected), entries[0] if entries else None)

    def move(self, by: int) -> None:
        """Select the call `by` lines below."""
        entries = self.entries()
        if entries:
            place = _place(entries, self.selected())
            self._selected = entries[max(0, min(len(entries) - 1, place + by))].key

    def next_order(self) -> None:
        """Sort by the next key."""
        names = list(ORDERS)
        self.order = names[(names.index(self.order) + 1) % len(names)]

    # -- drawing -------------------------------------------------------------------------------------------------------

    def render(self, height: int) -> Group:
        """Return what rich draws on a terminal of this height, in lines."""
        from rich.console import Group
        from rich.text import Text

        if self.output is not None:
            title, text = self.output
            lines = escape_controls(text).splitlines()[-max(1, height - 3) :]
            return Group(Text(title, style="bold"), Text("\n".join(lines)), Text("any key: back", style="reverse"))
        parts: list[Text | Table] = [*self._heads(), *(Text(text, style="red") for text in self._answers.silent)]
        left = max(1, height - sum(str(part).count("\n") + 1 for part in parts) - 3)
        parts += [self._table(left), Text(self._last_line(), style="reverse")]
        return Group(*parts)

    def _last_line(self) -> str:
        paused = "  (paused)" if self.is_paused else ""
        return self.message or f"{KEYS}  sorted by {self.order}{paused}"

    def _heads(self) -> list[Text]:
        from rich.text import Text

        heads: list[Text] = []
        for _, report in self._answers.reports[:MOST_POOL_LINES]:
            heads.append(Text(figures.title(report), style="bold", no_wrap=True, overflow="ellipsis"))
            rows = figures.rows(report)
            shown = [f"  {name}: {rows[name]}" for name in ("runners", "calls", "times") if name in rows]
            heads += [Text(text, no_wrap=True, overflow="ellipsis") for text in shown]
            if report["held_by"] or report["boot_errors"]:
                why = report["boot_errors"][-1]["text"] if report["boot_errors"] else report["why"]
                heads.append(Text(f"  {why}".replace("\n", " "), style="yellow", no_wrap=True, overflow="ellipsis"))
        more = len(self._answers.reports) - MOST_POOL_LINES
        if more > 0:
            heads.append(Text(f"and {more} more pools"))
        return heads or [Text("no program of this user runs a pool")]

    def _table(self, height: int) -> Table:
        from rich.table import Table

        table = Table(*("process", "pool", *figures.CALL_HEAD), box=None, header_style="bold", expand=True)
        for column in table.columns[:-1]:
            column.no_wrap = True
        table.columns[-1].overflow, table.columns[-1].no_wrap = "ellipsis", True
        entries, chosen = self.entries(), self.selected()
        for entry in _window(entries, chosen, height):
            is_chosen = chosen is not None and entry.key == chosen.key
            cells = (str(entry.report["pid"]), entry.report["pool"], *figures.call_row(entry.call))
            table.add_row(*map(_literal, cells), style="reverse" if is_chosen else "")
        return table


def _literal(text: str) -> Text:
    """Return a cell: brackets in names are no markup, and control characters are shown as escapes."""
    from rich.text import Text

    return Text(escape_controls(text))


def _place(entries: Sequence[Entry], chosen: Entry | None) -> int:
    return next((place for place, entry in enumerate(entries) if chosen and entry.key == chosen.key), 0)


def _window(entries: Sequence[Entry], chosen: Entry | None, height: int) -> Sequence[Entry]:
    """Return as many entries as there are lines, the chosen one among them."""
    place = _place(entries, chosen)
    first = max(0, min(place - height // 2, len(entries) - height))
    return entries[first : first + height]
