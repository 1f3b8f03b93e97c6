"""`dragonfly simulate`, as a user calls it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from dragonfly_executor.cli.main import main


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Calls of 5 s, every 20 s."""
    path = tmp_path / "trace.csv"
    path.write_text("arrival,seconds\n" + "".join(f"{20 * n},5\n" for n in range(100)))
    return str(path)


def test_it_prints_a_row_for_each_setting_and_its_choice(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", trace, "--boot", "10", "--price", "3.6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "100 calls in 1980 s, 500 s of work; a boot takes 10 s, a runner has 1 slot, max=100"
    rows = [line.rsplit(maxsplit=8) for line in lines if line.startswith("placement")]
    # A runner that is kept for 30 s stays warm. A call that waits for a boot ends 5 s before the next arrives, and the
    # next ends 15 s before the one after it. So with 10 s every other call waits for a boot.
    (warm,) = [row for row in rows if row[0] == "placement='spread', idle_shutdown_after=30"]
    assert warm[1:] == ["0.00", "0.00", "0.00", "2015", "2015", "1", "0", "2.02"]
    (cold,) = [row for row in rows if row[0] == "placement='pack', idle_shutdown_after=10"]
    assert cold[1:] == ["0.00", "10.00", "10.00", "1750", "1750", "50", "0", "1.75"]
    assert lines[-1] == "choice: placement='spread', idle_shutdown_after=10"


def test_it_prints_json_of_the_same(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", trace, "--boot", "10", "--json", "--billing", "60"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["calls"] == 100
    assert document["choice"] in document["tries"]
    assert document["choice"]["cost"] is None
    assert all(each["billed_seconds"] % 60 == 0 for each in document["tries"])


def test_it_says_that_max_or_the_accepted_wait_is_too_small(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", trace, "--boot", "100", "--max", "1", "--wait", "1"]) == 0
    out = capsys.readouterr().out
    assert "all 1 runners were up at once: a larger --max may shorten the waits" in out
    assert "no setting keeps the p99 wait within 1 s: try a larger --min" in out


def test_it_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("0,1\n"))
    assert main(["simulate", "-"]) == 0
    assert capsys.readouterr().out.startswith("1 calls in 0 s")


def test_a_trace_that_cannot_be_read_is_an_error_that_names_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(b"0,1\n1,\xff\n")
    assert main(["simulate", str(path)]) == 1
    assert f"dragonfly: {path}, line " in capsys.readouterr().err
    path.write_text("0,1\n1,soon\n")
    assert main(["simulate", str(path)]) == 1
    error = f"dragonfly: {path}, line 2: seconds must be a number of seconds, not 'soon'\n"
    assert capsys.readouterr().err == error
    missing = tmp_path / "none.csv"
    assert main(["simulate", str(missing)]) == 1
    assert capsys.readouterr().err == f"dragonfly: cannot read the trace {missing}: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--boot", "0"], "argument --boot: must be a number of seconds above 0, not '0'"),
        (["--boot", "inf"], "argument --boot: must be a number of seconds above 0, not 'inf'"),
        (["--slots", "0"], "argument --slots: must be a whole number of at least 1, not '0'"),
        (["--max", "many"], "argument --max: must be a whole number of at least 1, not 'many'"),
        (["--min", "-1"], "argument --min: must be a whole number of at least 0, not '-1'"),
        (["--price", "-1"], "argument --price: must be a number that is not negative, not '-1'"),
        (["--min", "3", "--max", "2"], "--min must be at most --max, and 3 is more than 2"),
    ],
)
def test_a_bad_argument_is_refused(
    trace: str, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", trace, *arguments])
    assert ended.value.code == 2
    assert error in capsys.readouterr().err
