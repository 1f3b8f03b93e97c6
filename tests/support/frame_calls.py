"""Calls with data frames and Arrow tables, for the tests of shared memory."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

kept: list[Any] = []
"""What calls keep in their slot."""


def addresses(frame: Any) -> list[int]:
    """Return where the buffers of a frame's columns lie."""
    if type(frame).__module__.startswith("polars"):
        frame = frame.to_arrow()
    if hasattr(frame, "itercolumns"):
        chunks = [chunk for column in frame.itercolumns() for chunk in column.chunks]
    else:
        arrays = [frame[name].array for name in frame.columns]
        chunks = [chunk for array in arrays if hasattr(array, "__arrow_array__") for chunk in _chunks(array)]
        plain = [array.to_numpy() for array in arrays if not hasattr(array, "_pa_array")]
        return [array.__array_interface__["data"][0] for array in plain] + _buffers(chunks)
    return _buffers(chunks)


def _chunks(array: Any) -> list[Any]:
    return list(array._pa_array.chunks) if hasattr(array, "_pa_array") else []


def _buffers(chunks: list[Any]) -> list[int]:
    return [buffer.address for chunk in chunks for buffer in chunk.buffers() if buffer is not None and buffer.size]


def shared_share(frame: Any) -> float:
    """Return which share of a frame's buffers lies in shared memory."""
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:dragonfly-data" in line]
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    found = [any(start <= address < end for start, end in spans) for address in addresses(frame)]
    return sum(found) / len(found)


def total(frame: Any) -> int:
    """Return the sum of the column ``n``."""
    return int(frame["n"].to_numpy().sum())


def echo(frame: Any) -> Any:
    return frame


def doubled(frame: Any) -> Any:
    """Return a frame whose column ``n`` is doubled, made in the slot."""
    kind = type(frame).__module__.partition(".")[0]
    if kind == "pandas":
        return frame.assign(n=frame["n"] * 2)
    if kind == "polars":
        return frame.with_columns(n=frame["n"] * 2)
    import pyarrow.compute

    return frame.set_column(frame.column_names.index("n"), "n", pyarrow.compute.multiply(frame["n"], 2))


def part(frame: Any) -> Any:
    """Return the last ten rows."""
    return frame.slice(len(frame) - 10) if hasattr(frame, "slice") else frame.iloc[-10:]


def write(frame: Any) -> int:
    """Write into a data frame of pandas. Returns the sum of its column ``n``."""
    frame.loc[0, "n"] = 1000
    return total(frame)


def keep(frame: Any) -> int:
    """Keep a part of the frame, and not the frame itself. Returns the slot's process id."""
    kept.append(part(frame))
    return os.getpid()


def totals_of_kept() -> list[int]:
    return [total(frame) for frame in kept]


def drop_kept() -> None:
    kept.clear()


def dies_of_its_pickle(frame: Any) -> Any:
    """Return an object that kills the slot when it is pickled, behind the frame."""
    return frame, Deadly()


class Deadly:
    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def total_in_forked_child(frame: Any, go_on: str, result: str) -> None:
    """Fork. The child reads the frame once the FIFO `go_on` is written to, and writes its total to another FIFO."""
    if os.fork() == 0:
        try:
            os.setsid()
            Path(go_on).read_bytes()
            Path(result).write_text(str(total(frame)))
        finally:
            os._exit(0)
