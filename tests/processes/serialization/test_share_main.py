"""Shared objects and the script's own module: handles in globals, and objects of the script's classes and code."""

from __future__ import annotations

from pathlib import Path

from tests.processes.serialization.test_main import run

SCRIPT = """
from dragonfly_executor import DragonflyExecutor, SharedObjectError


def work(place):
    return DATA[place]


class Thing:
    def __init__(self, value):
        self.value = value

    def get(self):
        return self.value


def main():
    global DATA, EXTRA
    with DragonflyExecutor(1) as executor:
        DATA = executor.share(list(range(100_000)))
        assert executor.submit(work, 7).result() == 7
        assert executor.submit(lambda: len(DATA)).result() == 100_000
        # The old handle is gone, and its object with it.
        DATA = executor.share([5] * 10)
        assert executor.submit(work, 7).result() == 5
        DATA.close()
        for fn in (work, lambda _: DATA):
            try:
                executor.submit(fn, 7).result()
            except SharedObjectError as error:
                assert "is closed" in str(error)
            else:
                raise AssertionError("a closed handle in a global was not refused")
        thing = executor.share(Thing(41))
        assert executor.submit(lambda: thing.get()).result() == 41
        assert executor.submit(Thing.get, thing).result() == 41
        EXTRA = 10
        add = executor.share(lambda value: value + EXTRA)
        assert executor.submit(lambda: add(1)).result() == 11
        # Code in a shared object sees the globals as they are when a call uses it.
        EXTRA = 20
        assert executor.submit(lambda: add(1)).result() == 21


if __name__ == "__main__":
    main()
    print("all well")
"""


def test_a_script_shares_through_its_globals(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    assert run(["script.py"], tmp_path) == "all well\n"


def test_a_program_that_slots_cannot_import_does_too(tmp_path: Path) -> None:
    assert run(["-c", SCRIPT], tmp_path) == "all well\n"
