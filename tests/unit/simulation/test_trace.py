"""What a trace may look like, and what is said of one that cannot be read."""

from __future__ import annotations

import pytest

from dragonfly_executor.simulation.trace import TraceCall, TraceError, read_trace


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def test_calls_are_in_order_of_arrival_and_the_first_is_at_zero() -> None:
    assert read_trace(lines("12.5,3\n10, 1.5\n"), "t") == [TraceCall(0.0, 1.5), TraceCall(2.5, 3.0)]


def test_header_comments_and_empty_lines_are_skipped_and_keys_are_kept() -> None:
    text = "Arrival, Seconds, Key\n\n# night\n0,1,\n1,2,user-17\n,,\n"
    assert read_trace(lines(text), "t") == [TraceCall(0.0, 1.0, None), TraceCall(1.0, 2.0, "user-17")]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "t has no call: write one line 'arrival,seconds' for each"),
        ("arrival,seconds\n", "t has no call"),
        ("0,1\narrival,seconds\n", "t, line 2: arrival must be a number of seconds, not 'arrival'"),
        ("0,1\n\n2,x\n", "t, line 3: seconds must be a number of seconds, not 'x'"),
        ("0,1\n2\n", "t, line 2: a line has 2 fields, 'arrival,seconds', or 3, with a key, and not 1"),
        ("0,1,k,4\n", "t, line 1: a line has 2 fields, 'arrival,seconds', or 3, with a key, and not 4"),
        ("0,-1\n", "t, line 1: seconds must be finite and not negative, not -1"),
        ("nan,1\n", "t, line 1: arrival must be finite, not nan"),
        ("0,1e999\n", "t, line 1: seconds must be finite and not negative, not 1e999"),
        ('0,1\n1,"2\n', "t, line 2: unexpected end of data"),
    ],
)
def test_a_bad_line_is_named(text: str, error: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace(lines(text), "t")
    assert str(caught.value).startswith(error)
