"""Traces of calls: when each arrived and how long it ran."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from math import isfinite
from typing import NamedTuple

HEADER = ("arrival", "seconds", "key")


class TraceError(ValueError):
    """A trace that cannot be read. The text names the line."""


class TraceCall(NamedTuple):
    """One call of a trace.

    Attributes:
        arrival: when it is submitted, in seconds from any origin.
        seconds: how long it runs.
        key: the key of its `options(key=...)`; None if it has none.
    """

    arrival: float
    seconds: float
    key: str | None = None


def read_trace(lines: Iterable[str], name: str) -> list[TraceCall]:
    """Read a trace of lines ``arrival, seconds[, key]``, and return its calls in order of arrival, the first at 0.

    The first line may be a header. Empty lines, and lines that begin with ``#``, are skipped.

    Args:
        lines: the lines.
        name: the name of the trace, for errors.

    Raises:
        TraceError: a line is no call, or there is no call.
    """
    calls = [_call(number, fields, name) for number, fields in _rows(lines, name)]
    if not calls:
        raise TraceError(f"{name} has no call: write one line 'arrival,seconds' for each, both in seconds")
    calls.sort(key=lambda call: call.arrival)
    first = calls[0].arrival
    return [call._replace(arrival=call.arrival - first) for call in calls]


def _rows(lines: Iterable[str], name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of each line that has a call."""
    rows = csv.reader(lines, skipinitialspace=True, strict=True)
    may_be_header = True
    while True:
        try:
            fields = next(rows, None)
        except csv.Error as error:
            raise TraceError(f"{name}, line {rows.line_num}: {error}") from None
        except UnicodeDecodeError as error:
            # The text is read ahead, so the line is not known exactly.
            raise TraceError(f"{name}, line {rows.line_num + 1} or later: {error}") from None
        if fields is None:
            return
        fields = [field.strip() for field in fields]
        if not any(fields) or fields[0].startswith("#"):
            continue
        is_header = may_be_header and tuple(field.lower() for field in fields) in (HEADER, HEADER[:2])
        may_be_header = False
        if not is_header:
            yield rows.line_num, fields


def _call(number: int, fields: list[str], name: str) -> TraceCall:
    if len(fields) not in (2, 3):
        raise TraceError(
            f"{name}, line {number}: a line has 2 fields, 'arrival,seconds', or 3, with a key, and not {len(fields)}"
        )
    arrival, seconds = (_number(number, *pair, name) for pair in zip(HEADER[:2], fields[:2], strict=True))
    return TraceCall(arrival, seconds, fields[2] or None if len(fields) == 3 else None)


def _number(number: int, field: str, text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise TraceError(f"{name}, line {number}: {field} must be a number of seconds, not {text!r}") from None
    if not isfinite(value) or (value < 0 and field == "seconds"):
        rule = "finite" if field == "arrival" else "finite and not negative"
        raise TraceError(f"{name}, line {number}: {field} must be {rule}, not {text}")
    return value
