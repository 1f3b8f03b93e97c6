"""The examples that are one short program each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.slow


def test_swap_process_pool(run_example: Run) -> None:
    ran = run_example("swap_process_pool.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert "  8 words that count: the dragonfly has four wings and moves each of them alone" in lines
    assert "a lambda travels: [0, 3, 6, 9, 12]" in lines
    assert "calls that survive a crash beside them, ProcessPoolExecutor: 0 of 5" in lines
    assert "calls that survive a crash beside them, DragonflyExecutor:   5 of 5" in lines


def test_swap_multiprocessing_pool(run_example: Run) -> None:
    ran = run_example("swap_multiprocessing_pool.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert "  8 words that count: the dragonfly has four wings and moves each of them alone" in lines
    assert lines[-4:] == [
        "a lambda travels: [0, 3, 6, 9, 12]",
        "endless items: [0, 1, 4, 9, 16]",
        "a crash fails its own call, by signal 9",
        "and the pool goes on: 1024",
    ]


def test_asyncio_timeout_cancel(run_example: Run) -> None:
    ran = run_example("asyncio_timeout_cancel.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    results, *lines, after = ran.stdout.splitlines()
    first, timed_out, gone, second, cancelled, also_gone = lines
    assert timed_out.startswith("timed out: ")
    assert gone == first.replace("started", "gone")
    assert cancelled == "cancelled"
    assert also_gone == second.replace("started", "gone")
    assert after == "after that: " + results.split()[1]


def test_asyncio_calls(run_example: Run) -> None:
    ran = run_example("asyncio_calls.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    one, together, values, stopped, coroutine = ran.stdout.splitlines()
    assert one == "one: ccacebeaa615bc66"
    assert together == "together: 5df6e0e2761359d3 aa6ac2d4961882f4"
    assert values == "values as they came: 100 100"
    assert stopped.startswith("stopped")
    assert coroutine.startswith("coroutine: hello you, hello you, by process ")


def test_trio_calls(run_example: Run) -> None:
    pytest.importorskip("trio", reason="trio is not installed here: it is in the extra 'test'")
    ran = run_example("trio_calls.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    one, *together, stopped, after = ran.stdout.splitlines()
    assert one == "one: ccacebeaa615bc66"
    assert sorted(together) == ["together: 5df6e0e2761359d3", "together: aa6ac2d4961882f4"]
    assert stopped.startswith("stopped")
    assert after == "after that: e3b0c44298fc1c14"


def test_streams(run_example: Run) -> None:
    ran = run_example("streams.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    closed = [line for line in lines if line.endswith("closes the generator")]
    first, second, million, tick = [line for line in lines if line not in closed]
    assert (len(closed), first, second) == (2, "2 3 5 7 11 13 17 19 23 29", "1000003")
    assert million.startswith("499999500000 from a million items in ")
    assert tick.startswith("a tick is here after ")


def test_model_worker(run_example: Run) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed here: it is in the extra 'examples'")
    ran = run_example("model_worker.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    accuracy, digits, times, beside, after = ran.stdout.splitlines()
    assert float(accuracy.removeprefix("accuracy: ")) > 0.9
    assert digits == "digits: [7, 7, 3, 5, 1, 0, 0, 2]"
    assert times.startswith("the model was loaded in ")
    assert beside == "calls beside it: [1, 2, 3]"
    assert after == "after a restart: True, calls lost: True"


def test_progress(run_example: Run) -> None:
    ran = run_example("progress.py")
    assert ran.returncode == 0
    *reports, last, primes = [
        line for line in ran.stdout.splitlines() if not line.startswith("the integral is 2.000000")
    ]
    assert len(reports) > 1
    assert reports[-1] == "100% done"
    assert last == "last: CallProgress(done=300000.0, total=300000.0, text='done', item=None)"
    assert primes == "152 primes"
    assert ran.stderr.startswith("primes: 2000 of 2000 (100 %) items, ")


def test_sweep(run_example: Run) -> None:
    pytest.importorskip("numpy", reason="NumPy is not installed here: it is in the extra 'examples'")
    ran = run_example("sweep.py")
    assert ran.returncode == 0
    *table, best = ran.stdout.splitlines()
    assert len(table) == 6
    assert best == "best: width 0.3, penalty 0.001, error 0.1002"
    assert ran.stderr.startswith("sweep: 25 of 25 (100 %) items, ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ssh_hosts.py", "Name the hosts:  python examples/ssh_hosts.py gpu1"),
        ("slurm_jobs.py", "There is no sbatch here."),
    ],
)
def test_an_example_says_what_it_needs(
    run_example: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, said: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = run_example(name)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(said)
