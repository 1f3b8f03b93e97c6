"""Calls of one function of a script in a row: only their arguments are pickled, and what they see is current."""

from __future__ import annotations

from pathlib import Path

from tests.processes.serialization.test_main import launch

SCRIPT = """
from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.serialization import CallCodec
from dragonfly_executor.serialization.layout import MAIN_CALL

def times(value):
    return value * factor


def late_or(value):
    try:
        return late
    except NameError:
        return value


def plus(value, other="!"):
    return value + other


def pair(value):
    return [value, value]


class Holder:
    @staticmethod
    def twice(value):
        return 2 * value


def values():
    global factor
    yield from (1, 2)
    factor = 7
    yield from (1, 2)


if __name__ == "__main__":
    codec = CallCodec()
    first, second, third = [b"".join(codec.encode_call(pair, (5,), {})) for _ in range(3)]
    assert first == second and first[0] == third[0] == MAIN_CALL and len(third) < len(first), (first, third)

    with DragonflyExecutor(1) as pool:
        assert [pool.submit(late_or, 5).result() for _ in range(4)] == [5] * 4
        late = 6
        assert [pool.submit(late_or, 5).result() for _ in range(4)] == [6] * 4

        factor = 2
        assert [pool.submit(times, 5).result() for _ in range(4)] == [10] * 4
        factor = 3
        assert [pool.submit(times, 5).result() for _ in range(4)] == [15] * 4
        factor = 2
        assert [pool.submit(times, 5).result() for _ in range(4)] == [10] * 4
        assert list(pool.map(times, values(), buffersize=1)) == [2, 4, 7, 14]

        texts = ["a", "__main__", "é", "x" * 70_000, "a"]
        assert [pool.submit(plus, text).result() for text in texts * 2] == [text + "!" for text in texts * 2]
        assert [pool.submit(plus, text, other="?").result() for text in texts] == [text + "?" for text in texts]
        assert list(pool.map(plus, texts)) == [text + "!" for text in texts]

        for chunksize in (3, "auto"):
            assert list(pool.map(pair, range(50), chunksize=chunksize)) == [[n, n] for n in range(50)]
            assert list(pool.map(plus, texts, texts, chunksize=chunksize)) == [text + text for text in texts]
            assert list(pool.map(pair, [Holder] * 7, chunksize=chunksize)) == [[Holder, Holder]] * 7
            assert list(pool.map(lambda value: times(value), range(9), chunksize=chunksize)) == [
                factor * n for n in range(9)
            ]
        factor = 2
        assert list(pool.map(times, values(), chunksize=2, buffersize=2)) == [2, 4, 7, 14]

        assert [pool.submit(pair, Holder).result() for _ in range(3)] == [[Holder, Holder]] * 3
        assert [pool.submit(Holder.twice, 4).result() for _ in range(4)] == [8] * 4

        assert [pool.submit(pair, 1).result() for _ in range(4)] == [[1, 1]] * 4
        old, pair = pair, None
        assert codec.encode_call(old, (5,), {})[0][0] != MAIN_CALL
        assert [pool.submit(old, 1).result() for _ in range(4)] == [[1, 1]] * 4
    print("all well")
"""


def test_repeated_calls_of_a_script_s_functions(tmp_path: Path) -> None:
    assert launch("file", SCRIPT, tmp_path) == "all well\n"
