"""What type checkers say of `acall`, `amap`, `await`, and of ``async def`` functions as calls."""

from __future__ import annotations

from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api", reason="mypy is not installed here: it is in the extra 'dev'")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

GOOD = """
from typing import assert_type
from dragonfly_executor import DragonflyExecutor, Pool

async def coroutine(x: int) -> str:
    return str(x)

def plain(x: int, *, y: str = "") -> float:
    return 0.5

async def main(ex: DragonflyExecutor, pool: Pool) -> None:
    assert_type(await ex.acall(coroutine, 1), str)
    assert_type(await ex.options(timeout=1).acall(plain, 1, y=""), float)
    assert_type(await ex.submit(coroutine, 1), str)
    assert_type(ex.submit(plain, 1).result(), float)
    assert_type(pool.call(coroutine, 1), str)
    async for text in pool.amap(coroutine, [1]):
        assert_type(text, str)
    async for number in ex.amap(plain, [1], ordered=False):
        assert_type(number, float)
    for text in ex.map(coroutine, [1]):
        assert_type(text, str)
    async with ex as same, pool as also:
        assert_type(same, DragonflyExecutor)
        assert_type(also, Pool)
"""
BAD = """
from dragonfly_executor import DragonflyExecutor

def plain(x: int, *, y: str = "") -> float:
    return 0.5

async def main(ex: DragonflyExecutor) -> None:
    await ex.acall(plain, "1")
    await ex.acall(plain, 1, z="")
    await ex.acall(plain)
    ex.amap(plain, [1], order=False)
"""


def said_of(program: str, folder: Path) -> list[str]:
    path = folder / "program.py"
    path.write_text(program)
    out, err, _ = api.run(["--strict", "--cache-dir", str(folder / "cache"), "--no-error-summary", str(path)])
    assert not err
    return [line for line in out.splitlines() if "error:" in line]


def test_types_are_known(tmp_path: Path) -> None:
    assert said_of(GOOD, tmp_path) == []


def test_wrong_arguments_are_errors(tmp_path: Path) -> None:
    lines = {line.split(":")[1] for line in said_of(BAD, tmp_path)}
    assert lines == {"8", "9", "10", "11"}
