"""The joblib backend, used as joblib's and scikit-learn's own examples use theirs."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

joblib = pytest.importorskip("joblib", reason="joblib is not installed here: pip install -e '.[joblib]'")

from joblib import Parallel, delayed, effective_n_jobs, parallel_config  # noqa: E402

from dragonfly_executor import DragonflyExecutor, Parent, RunnerLostError  # noqa: E402
from dragonfly_executor.integrations.joblib import DragonflyJoblibBackend  # noqa: E402
from tests.support.helpers import PATIENCE, Gate, Mailbox, ProcessHandle, all_ended, watching  # noqa: E402
from tests.support.payloads import hold, hold_for_good, pid, wait_at  # noqa: E402

pytestmark = pytest.mark.engine


@pytest.fixture
def executor() -> Iterator[DragonflyExecutor]:
    """An executor that the backend leaves as it is."""
    with DragonflyExecutor(2) as executor:
        executor.submit(pid).result(PATIENCE)
        yield executor


def square(number: int) -> int:
    return number * number


def fail_at_gate(gate: str) -> None:
    wait_at(gate)
    raise ValueError("this one fails")


def die_once(mark: Path, value: int) -> int:
    """Kill the slot in the first run, which makes the file `mark`."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def where() -> tuple[int, bool]:
    return os.getpid(), Parent.get() is not None


def nested(number: int) -> tuple[int, list[int], str]:
    """Run a `Parallel` of its own."""
    parallel = Parallel(n_jobs=2)
    inner = parallel(delayed(os.getpid)() for _ in range(4))
    return os.getpid(), inner, type(parallel._backend).__name__


def threads_of_libraries(names: list[str]) -> list[str | None]:
    return [os.environ.get(name) for name in names]


# -- joblib ------------------------------------------------------------------------------------------------------------


def test_calls_run_on_runners_and_results_come_in_order(executor: DragonflyExecutor) -> None:
    with parallel_config("dragonfly", executor=executor):
        assert Parallel()(delayed(square)(number) for number in range(1000)) == [n * n for n in range(1000)]
        places = Parallel()(delayed(where)() for _ in range(4))
    assert all(inside for _, inside in places)
    assert os.getpid() not in {place for place, _ in places}


def test_small_calls_travel_in_batches(executor: DragonflyExecutor) -> None:
    before = executor.pool.stats().calls_done
    with parallel_config("dragonfly", executor=executor):
        Parallel()(delayed(square)(number) for number in range(5000))
        assert executor.pool.stats().calls_done - before < 1000
        before = executor.pool.stats().calls_done
        Parallel(batch_size=50)(delayed(square)(number) for number in range(1000))
        assert executor.pool.stats().calls_done - before < 100


def test_lambdas_and_closures_travel(executor: DragonflyExecutor) -> None:
    offset = 5
    with parallel_config("dragonfly", executor=executor):
        assert Parallel()(delayed(lambda number: number + offset)(number) for number in range(4)) == [5, 6, 7, 8]


@pytest.mark.parametrize("n_jobs", [2, -1, 1])
def test_the_number_of_jobs(executor: DragonflyExecutor, n_jobs: int) -> None:
    """With one job the calls run here, as with joblib's own backends."""
    with parallel_config("dragonfly", executor=executor, n_jobs=n_jobs):
        assert effective_n_jobs(n_jobs) == (n_jobs if n_jobs > 0 else 2)
        assert (os.getpid() in set(Parallel()(delayed(os.getpid)() for _ in range(8)))) == (n_jobs == 1)


def test_no_jobs_has_no_meaning(executor: DragonflyExecutor) -> None:
    with parallel_config("dragonfly", executor=executor), pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)(delayed(square)(number) for number in range(2))


def test_an_executor_of_its_own_lives_for_the_block_and_takes_options() -> None:
    with parallel_config("dragonfly", max_workers=1):
        first = set(Parallel()(delayed(os.getpid)() for _ in range(3)))
        second = set(Parallel()(delayed(os.getpid)() for _ in range(3)))
        assert len(first) == 1
        assert first == second
        assert os.getpid() not in first
    with watching(*first) as slots:
        # A Parallel and its backend reference each other.
        gc.collect()
        assert all_ended(slots, PATIENCE)


def test_a_view_of_an_executor_brings_its_options(executor: DragonflyExecutor, tmp_path: Path) -> None:
    """The call loses its slot once, and runs again."""
    mark = tmp_path / "mark"
    with parallel_config("dragonfly", executor=executor.options(retries=1)):
        assert Parallel()([delayed(die_once)(mark, 3)]) == [3]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"executor": 7}, "must be a DragonflyExecutor"), ({"executor": 7, "max": 2}, "takes no options: leave out max")],
)
def test_arguments_are_checked(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        DragonflyJoblibBackend(**arguments)


def test_an_exception_ends_the_call_and_the_executor_goes_on(
    executor: DragonflyExecutor, mailbox: Mailbox, gate: Gate
) -> None:
    """What still runs is killed, and the error keeps its type."""
    held: list[ProcessHandle] = []

    def let_fail() -> None:
        held.append(ProcessHandle(int(mailbox.read())))
        gate.open()

    calls = [delayed(hold_for_good)(mailbox.path), delayed(fail_at_gate)(gate.path)]
    failing = threading.Thread(target=let_fail)
    failing.start()
    with parallel_config("dragonfly", executor=executor):
        with pytest.raises(ValueError, match="this one fails"):
            Parallel(batch_size=1)(calls)
        failing.join()
        assert Parallel()(delayed(square)(number) for number in range(3)) == [0, 1, 4]
    with closing(held[0]) as slot:
        assert slot.ended()


def test_a_lost_runner_is_an_error_of_the_call(executor: DragonflyExecutor) -> None:
    with parallel_config("dragonfly", executor=executor):
        with pytest.raises(RunnerLostError):
            Parallel()(delayed(os.kill)(0, signal.SIGKILL) for _ in range(1))
        assert Parallel()(delayed(square)(number) for number in range(3)) == [0, 1, 4]


def test_a_timeout_ends_the_call_and_what_runs(executor: DragonflyExecutor, mailbox: Mailbox) -> None:
    with parallel_config("dragonfly", executor=executor):
        with pytest.raises(multiprocessing.TimeoutError):
            Parallel(timeout=2)(delayed(hold_for_good)(mailbox.path) for _ in range(2))
        with watching(*mailbox.numbers(1)) as slots:
            assert all_ended(slots)


def test_a_generator_yields_while_later_calls_run(executor: DragonflyExecutor, mailbox: Mailbox, gate: Gate) -> None:
    with parallel_config("dragonfly", executor=executor):
        results = Parallel(return_as="generator", batch_size=1)(
            delayed(square)(3) if number == 0 else delayed(hold)(mailbox.path, gate.path, number) for number in range(2)
        )
        assert next(results) == 9
        mailbox.read()
        gate.open()
        assert list(results) == [1]


def test_an_unordered_generator_yields_what_is_done_first(
    executor: DragonflyExecutor, mailbox: Mailbox, gate: Gate
) -> None:
    with parallel_config("dragonfly", executor=executor):
        results = Parallel(return_as="generator_unordered", batch_size=1)(
            delayed(hold)(mailbox.path, gate.path, 1) if number == 0 else delayed(square)(3) for number in range(2)
        )
        assert next(results) == 9
        gate.open()
        assert list(results) == [1]


def test_a_generator_that_is_left_stops_its_calls(executor: DragonflyExecutor, mailbox: Mailbox) -> None:
    with parallel_config("dragonfly", executor=executor):
        results = Parallel(return_as="generator", batch_size=1)(
            delayed(square)(3) if number == 0 else delayed(hold_for_good)(mailbox.path) for number in range(2)
        )
        assert next(results) == 9
        with watching(int(mailbox.read())) as slots:
            with pytest.warns(UserWarning, match="have been cancelled"):
                results.close()
            assert all_ended(slots)


def test_a_parallel_inside_of_a_call_uses_threads_there(executor: DragonflyExecutor) -> None:
    with parallel_config("dragonfly", executor=executor):
        for outer, inner, backend in Parallel()(delayed(nested)(number) for number in range(2)):
            assert set(inner) == {outer}
            assert backend == "ThreadingBackend"


def test_numeric_libraries_in_calls_can_be_bounded() -> None:
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    with DragonflyExecutor(2) as own, parallel_config("dragonfly", executor=own, inner_max_num_threads=3):
        assert Parallel()(delayed(threads_of_libraries)(names) for _ in range(2)) == [["3", "3", "3"]] * 2


def test_calls_of_several_threads_do_not_disturb_each_other(executor: DragonflyExecutor) -> None:
    found: list[list[int]] = []

    def run() -> None:
        with parallel_config("dragonfly", executor=executor):
            found.append(Parallel()(delayed(square)(number) for number in range(200)))

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: run(), range(3)))
    assert found == [[number * number for number in range(200)]] * 3


PROGRAM = """
import sys
from joblib import Parallel, delayed, parallel_config
import dragonfly_executor.integrations.joblib
from tests.support.payloads import hold_for_good

if __name__ == "__main__":
    try:
        with parallel_config("dragonfly", max_workers=1):
            Parallel()(delayed(hold_for_good)(sys.argv[1]) for _ in range(2))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_stops_the_calls(mailbox: Mailbox, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    command = [sys.executable, str(script), mailbox.path]
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with (
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as running,
        watching(int(mailbox.read())) as slots,
    ):
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=PATIENCE)[0] == "interrupted\n"
        assert all_ended(slots)
    assert running.returncode == 0


# -- scikit-learn ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed here")
    data, target = datasets.load_digits(n_class=4, return_X_y=True)
    return data[:300], target[:300]


def test_a_grid_search_finds_what_it_finds_here(executor: DragonflyExecutor, digits: tuple[Any, Any]) -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    def search() -> Any:
        return GridSearchCV(SVC(), {"C": [0.1, 1, 10], "gamma": [1e-3, 1e-4]}, cv=3, n_jobs=None).fit(*digits)

    before = executor.pool.stats().calls_done
    with parallel_config("dragonfly", executor=executor):
        there = search()
    assert executor.pool.stats().calls_done > before
    here = search()
    assert there.best_params_ == here.best_params_
    assert there.cv_results_["mean_test_score"].tolist() == here.cv_results_["mean_test_score"].tolist()


def test_scores_of_a_pipeline_in_a_cross_validation(executor: DragonflyExecutor, digits: tuple[Any, Any]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with parallel_config("dragonfly", executor=executor):
        assert cross_val_score(pipeline, *digits, cv=4).min() > 0.9


def test_a_forest_grows_its_trees_on_runners(executor: DragonflyExecutor, digits: tuple[Any, Any]) -> None:
    """A forest prefers threads, but the backend that the user names wins. Its prediction requires shared memory."""
    from sklearn.ensemble import RandomForestClassifier

    with parallel_config("dragonfly", executor=executor):
        before = executor.pool.stats().calls_done
        forest = RandomForestClassifier(20, random_state=0).fit(*digits)
        assert executor.pool.stats().calls_done > before
        assert forest.score(*digits) == 1.0
    assert (
        forest.predict(digits[0]) == RandomForestClassifier(20, random_state=0).fit(*digits).predict(digits[0])
    ).all()


def test_a_search_over_forests_nests(executor: DragonflyExecutor, digits: tuple[Any, Any]) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import RandomizedSearchCV

    with parallel_config("dragonfly", executor=executor):
        search = RandomizedSearchCV(
            RandomForestClassifier(10, n_jobs=2, random_state=0), {"max_depth": [2, 5, None]}, n_iter=3, cv=2,
            random_state=0,
        )  # fmt: skip
        assert search.fit(*digits).best_score_ > 0.7


def test_an_error_in_a_fit_is_that_error(executor: DragonflyExecutor, digits: tuple[Any, Any]) -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    with parallel_config("dragonfly", executor=executor), pytest.raises(ValueError, match="no_such_kernel"):
        GridSearchCV(SVC(), {"kernel": ["no_such_kernel"]}, cv=2, error_score="raise").fit(*digits)
