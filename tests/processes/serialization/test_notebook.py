"""Programs without a file, like a notebook: the parent's current state travels by value, to each slot and pool."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HEAD = """
import os, signal, threading
from dragonfly_executor import DragonflyExecutor
def values(futures): return [future.result() for future in futures]
"""

PROGRAMS = {
    "a class that is defined again is the new class": """
        class Point:
            level = 1
            def __init__(self, x): self.x = x
            def moved(self): return Point(self.x + self.level)
        with DragonflyExecutor(max_workers=2) as executor:
            old = Point
            assert all(type(p) is Point for p in values([executor.submit(Point(n).moved) for n in range(50)]))
            class Point:
                level = 10
                def __init__(self, x): self.x = x
                def moved(self): return Point(self.x + self.level)
            points = values([executor.submit(Point(n).moved) for n in range(50)])
            assert [p.x for p in points] == list(range(10, 60)) and all(type(p) is Point for p in points)
            assert not isinstance(points[0], old)
    """,
    "isinstance works across calls, and a registry is the parent's": """
        class Base:
            kinds = {}
            def __init_subclass__(cls): Base.kinds[cls.__name__] = cls
        class Derived(Base): pass
        def check(thing): return isinstance(thing, Derived), isinstance(thing, Base), sorted(Base.kinds)
        with DragonflyExecutor(max_workers=2) as executor:
            assert values([executor.submit(check, Derived()) for _ in range(20)]) == [(True, True, ["Derived"])] * 20
            class Other(Base): pass
            assert values([executor.submit(check, Derived()) for _ in range(20)]) == [
                (True, True, ["Derived", "Other"])] * 20
            made = executor.submit(lambda: [Derived(), Other()]).result()
            assert executor.submit(lambda: [type(one).__name__ for one in made]).result() == ["Derived", "Other"]
            assert isinstance(made[0], Derived) and isinstance(made[1], Other)
    """,
    "a small container that changes in place travels again": """
        CONFIG, ITEMS, SEEN = {"factor": 2}, [1], {1}
        def work(x): return x * CONFIG["factor"] + len(ITEMS) + len(SEEN)
        with DragonflyExecutor(max_workers=2) as executor:
            assert values([executor.submit(work, 1) for _ in range(20)]) == [4] * 20
            CONFIG["factor"] = 3; ITEMS.append(2); SEEN.add(2)
            assert values([executor.submit(work, 1) for _ in range(20)]) == [7] * 20
            assert list(executor.map(lambda x: work(x), range(4))) == [4, 7, 10, 13]
    """,
    "what a call changes in a global stays in its slot until the parent changes it": """
        STATE = {"count": 0}
        def count(): STATE["count"] += 1; return STATE["count"]
        with DragonflyExecutor(max_workers=1) as executor:
            assert values([executor.submit(count) for _ in range(3)]) == [1, 2, 3]
            assert STATE == {"count": 0}
            STATE["count"] = 10
            assert values([executor.submit(count) for _ in range(2)]) == [11, 12]
    """,
    "captured state does not leak from call to call": """
        def make():
            items, number = [], 0
            def work(more=[]):
                nonlocal number
                items.append(1); more.append(1); number += 1
                work_sum = len(items), len(more), number
                return work_sum
            return work
        with DragonflyExecutor(max_workers=1) as executor:
            work = make()
            assert values([executor.submit(work) for _ in range(5)]) == [(1, 1, 1)] * 5
            work()
            assert values([executor.submit(work) for _ in range(5)]) == [(2, 2, 2)] * 5
            assert list(executor.map(lambda x, seen=[]: seen.append(x) or len(seen), range(5))) == [1] * 5
    """,
    "a slot that is replaced gets it all again": """
        FACTOR = 3
        class Point:
            def __init__(self, x): self.x = x * FACTOR
            def get(self): return Point(self.x)
        with DragonflyExecutor(max_workers=1) as executor:
            base = 1
            assert executor.submit(Point(1).get).result().x == 9
            assert executor.submit(lambda: base + FACTOR).result() == 4
            try:
                executor.submit(lambda: os.kill(os.getpid(), signal.SIGKILL)).result()
            except Exception as error:
                assert "signal" in str(error) or "SIGKILL" in str(error), error
            assert executor.submit(Point(1).get).result().x == 9
            assert executor.submit(lambda: base + FACTOR).result() == 4
    """,
    "pools and threads do not mix": """
        class Point:
            def __init__(self, x): self.x = x
            def get(self): return self.x
        results = []
        def use(executor, start):
            for n in range(start, start + 60):
                point = Point(n)
                results.append(executor.submit(point.get).result() == n)
                results.append(executor.submit(lambda: (n, point.x)).result() == (n, n))
        with DragonflyExecutor(max_workers=2) as one, DragonflyExecutor(max_workers=1) as other:
            threads = [threading.Thread(target=use, args=(pool, 1000 * k)) for k, pool in enumerate([one, other, one])]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
        assert results == [True] * 360
    """,
    "an error shows the file and the line of a lambda": """
        import traceback
        with DragonflyExecutor(max_workers=1) as executor:
            fail = eval(compile("lambda: 1 / 0", "the notebook's cell", "eval"))
            try:
                executor.submit(fail).result()
            except ZeroDivisionError as error:
                assert 'File "the notebook\\'s cell", line 1' in "".join(traceback.format_exception(error))
    """,
}


@pytest.mark.parametrize("text", PROGRAMS.values(), ids=PROGRAMS)
def test_program(text: str) -> None:
    program = HEAD + textwrap.dedent(text) + "\nprint('done')\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("done\n", "")
