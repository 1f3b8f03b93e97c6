"""Data frames and Arrow tables as arguments and results: views of shared memory where their pickles permit that."""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import LocalBackend, RunnerLostError
from tests.processes.conftest import Make
from tests.support import frame_calls as calls
from tests.support import payloads
from tests.support.array_calls import segments_of
from tests.support.helpers import PATIENCE, SOON, error_of, kill_and_wait

WHY = "pip install -e '.[engines]'"
np = pytest.importorskip("numpy")
pandas = pytest.importorskip("pandas", reason=f"pandas is not installed here: {WHY}")
polars = pytest.importorskip("polars", reason=f"polars is not installed here: {WHY}")
pyarrow = pytest.importorskip("pyarrow", reason=f"pyarrow is not installed here: {WHY}")
pytestmark = pytest.mark.engine

SMALL, MIDDLE, LARGE = 64 << 10, 1 << 20, 64 << 20
KINDS = ["pandas", "pandas on Arrow", "pyarrow", "polars"]
VIEWS = KINDS[:3]
"""Those that pickle their buffers by protocol 5. polars writes its own format into the pickle."""
needs_memory = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no memfd")


def frame_of(kind: str, size: int = MIDDLE, first: int = 0) -> Any:
    """Return a frame of about `size` bytes."""
    rows = size // 24
    columns = {
        "n": np.arange(first, first + rows),
        "f": np.arange(rows) / 7,
        "text": np.array(["a", "text", "ünï"])[np.arange(rows) % 3].astype(object),
    }
    if kind == "pyarrow":
        return pyarrow.table(columns)
    if kind == "polars":
        return polars.DataFrame(columns)
    frame = pandas.DataFrame(columns)
    return frame.convert_dtypes(dtype_backend="pyarrow") if kind == "pandas on Arrow" else frame


def is_given_back(ex: Any) -> bool:
    """Return whether the parent gets all shared memory back once no view of it is left."""
    ex.submit(payloads.pid).result(SOON)
    memory = ex.pool._engine.payloads.shared_memory()
    gc.collect()
    ex.pool._engine.ask(lambda _machine: memory._pool.trim())
    return bool(memory.account.taken == 0 and segments_of() == 0)


# -- what arrives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [None, 0], ids=["shared memory", "stream"])
def test_frames_of_every_size_come_back_equal(make: Make, kind: str, shared: int | None) -> None:
    ex = make(1, backend=LocalBackend(shared_memory=shared))
    for size in (SMALL, MIDDLE, LARGE):
        frame = frame_of(kind, size)
        back = ex.submit(calls.echo, frame).result(PATIENCE)
        assert type(back) is type(frame)
        assert back.equals(frame)
        assert calls.total(ex.submit(calls.doubled, frame).result(PATIENCE)) == 2 * calls.total(frame)
        assert ex.submit(calls.part, frame).result(PATIENCE).equals(calls.part(frame))


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_many_types_come_back_equal(make: Make, kind: str) -> None:
    rows = 20_000
    frame = pandas.DataFrame(
        {
            "n": np.arange(rows),
            "flag": np.arange(rows) % 2 == 0,
            "when": pandas.date_range("2026-01-01", periods=rows, freq="s", tz="Europe/Berlin"),
            "maybe": pandas.array([None if row % 7 == 0 else row for row in range(rows)], dtype="Int64"),
            "kind": pandas.Categorical.from_codes(np.arange(rows) % 3, ["x", "y", "z"]),
        }
    )
    if kind == "pandas on Arrow":
        frame = frame.convert_dtypes(dtype_backend="pyarrow")
    value = {"pyarrow": pyarrow.Table.from_pandas, "polars": polars.from_pandas}.get(kind, calls.echo)(frame)
    assert make(1).submit(calls.echo, value).result(PATIENCE).equals(value)


@needs_memory
@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("size", [MIDDLE, LARGE])
def test_columns_are_views_of_shared_memory_on_both_sides(make: Make, kind: str, size: int) -> None:
    ex, frame = make(1), frame_of(kind, size)
    assert calls.shared_share(frame) == 0
    assert ex.submit(calls.shared_share, frame).result(PATIENCE) == 1
    assert calls.shared_share(ex.submit(calls.echo, frame).result(PATIENCE)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_frame_serves_many_calls(make: Make, kind: str) -> None:
    ex, frame = make(2), frame_of(kind)
    with ex.share(frame) as handle:
        assert set(ex.map(calls.total, [handle] * 20, timeout=PATIENCE)) == {calls.total(frame)}


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pandas", "pandas on Arrow"])
def test_what_a_call_writes_into_a_frame_stays_in_the_call(make: Make, kind: str) -> None:
    ex, frame = make(1), frame_of(kind)
    before = calls.total(frame)
    for _ in range(5):
        assert ex.submit(calls.write, frame).result(PATIENCE) == before + 1000
    assert calls.total(frame) == calls.total(ex.submit(calls.echo, frame).result(PATIENCE)) == before


@pytest.mark.parametrize("kind", ["pandas", "pandas on Arrow"])
def test_a_frame_that_came_back_may_be_written_to_and_its_copies_stay(make: Make, kind: str) -> None:
    """Copy-on-Write of pandas: a selection is a view until one of the two is written to."""
    ex = make(1)
    back = ex.submit(calls.echo, frame_of(kind)).result(PATIENCE)
    selection, before = back[["n", "f"]], calls.total(back)
    assert calls.write(back) == before + 1000
    assert calls.total(selection) == before
    for first in range(20):
        ex.submit(calls.echo, frame_of(kind, first=first)).result(PATIENCE)
    assert (calls.total(back), calls.total(selection)) == (before + 1000, before)


@pytest.mark.parametrize("shared", [None, 0], ids=["shared memory", "stream"])
def test_read_only_arguments_hold_for_frames(make: Make, shared: int | None) -> None:
    ex = make(1, backend=LocalBackend(shared_memory=shared), read_only_arguments=True)
    for size in (SMALL, MIDDLE):
        with pytest.raises(ValueError, match="read-only"):
            ex.submit(calls.write, frame_of("pandas", size)).result(PATIENCE)
        for kind in KINDS:
            frame = frame_of(kind, size)
            assert calls.total(ex.submit(calls.doubled, frame).result(PATIENCE)) == 2 * calls.total(frame)


# -- how long views live -----------------------------------------------------------------------------------------------


@needs_memory
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_an_argument_outlives_its_call_and_gives_its_memory_back(make: Make, kind: str) -> None:
    ex = make(1)
    for first in range(4):
        ex.submit(calls.keep, frame_of(kind, first=first)).result(PATIENCE)
    for first in range(40):
        ex.submit(calls.echo, frame_of(kind, first=100 + first)).result(PATIENCE)
    expected = [calls.total(calls.part(frame_of(kind, first=first))) for first in range(4)]
    assert ex.submit(calls.totals_of_kept).result(PATIENCE) == expected
    ex.submit(calls.drop_kept).result(PATIENCE)


@needs_memory
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_result_outlives_its_frame_and_its_pool(make: Make, kind: str) -> None:
    ex, frame = make(1), frame_of(kind)
    part = calls.part(ex.submit(calls.echo, frame).result(PATIENCE))
    for first in range(20):
        ex.submit(calls.echo, frame_of(kind, first=100 + first)).result(PATIENCE)
    unopened = ex.submit(calls.echo, frame)
    ex.shutdown()
    assert calls.total(part) == calls.total(calls.part(frame))
    assert unopened.result(SOON).equals(frame)


@needs_memory
@pytest.mark.parametrize("kind", KINDS)
def test_killed_slots_harm_no_frame_and_give_their_memory_back(make: Make, kind: str) -> None:
    ex, frame = make(1), frame_of(kind)
    slot = ex.submit(calls.keep, frame).result(PATIENCE)
    held = ex.submit(calls.echo, frame).result(PATIENCE)
    kill_and_wait(slot)
    assert held.equals(frame)
    assert isinstance(error_of(ex.submit(calls.dies_of_its_pickle, frame)), RunnerLostError)
    assert held.equals(frame)
    assert ex.submit(calls.echo, frame).result(PATIENCE).equals(frame)
    slot = ex.submit(payloads.pid).result(SOON)
    kill_and_wait(slot)
    del held
    assert is_given_back(ex)


@needs_memory
@pytest.mark.parametrize("kind", VIEWS)
def test_a_forked_child_of_a_call_keeps_its_frame(make: Make, tmp_path: Path, kind: str) -> None:
    """Without polars: its threads do not survive a fork."""
    ex, go_on, result = make(1), tmp_path / "go", tmp_path / "result"
    os.mkfifo(go_on)
    os.mkfifo(result)
    reader = os.open(result, os.O_RDONLY | os.O_NONBLOCK)
    ex.submit(calls.total_in_forked_child, frame_of(kind), str(go_on), str(result)).result(PATIENCE)
    for first in range(30):
        ex.submit(calls.echo, frame_of(kind, first=100 + first)).result(PATIENCE)
    go_on.write_bytes(b"go")
    try:
        select.select([reader], [], [], PATIENCE)
        assert int(os.read(reader, 100)) == calls.total(frame_of(kind))
    finally:
        os.close(reader)


HANDED_ON = """
import os, sys
import numpy, polars, pyarrow
from dragonfly_executor import DragonflyExecutor
from tests.support import frame_calls as calls
ex = DragonflyExecutor(1)
def table(first):
    return pyarrow.table({"n": numpy.arange(first, first + 100_000)})
held = [polars.from_arrow(ex.submit(calls.echo, table(first)).result()) for first in range(10)]
for first in range(30):
    polars.from_arrow(ex.submit(calls.echo, table(1000 + first)).result()).lazy().filter(polars.col("n") > 5).collect()
print([calls.total(frame) == calls.total(table(first)) for first, frame in enumerate(held)] == [True] * 10)
print(sum(calls.shared_share(frame) for frame in held) == 10)
late = polars.from_arrow(ex.submit(calls.echo, table(5)).result()).lazy().select(polars.col("n").sum())
"""


@needs_memory
def test_polars_may_hold_and_free_the_memory_of_a_table() -> None:
    """It frees it on threads of its own, and at the end of the interpreter."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HANDED_ON], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("True\nTrue\n", "", 0)
