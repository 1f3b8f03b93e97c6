"""Which of CPython's tests need a shim, and which are left out, each with its reason.

Every other test runs with nothing but the class exchanged. An id is ``Class.method``, without the start method;
``Class.*`` stands for all of a class.
"""

from __future__ import annotations

# Tests of the public contract that look into the other class on the way; `shims` gives them something to look at.
SHIMMED = {
    "ExecutorDeadlockTest.test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "delays the manager thread",
    "ExecutorDeadlockTest.test_shutdown_deadlock_pickle": "joins the manager thread",
    "FailingInitializerTest.test_initializer": "reads _broken, and a log line of the worker process",
    "FutureTests.*": "makes futures by hand, which ours are not",
    "ProcessPoolExecutorTest.test_idle_process_reuse_multiple": "counts _processes",
    "ProcessPoolExecutorTest.test_idle_process_reuse_one": "counts _processes",
    "ProcessPoolExecutorTest.test_max_tasks_per_child": "counts _processes",
    "ProcessPoolExecutorTest.test_saturation": "counts _processes; passes a semaphore that cannot be pickled",
    "ProcessPoolExecutorTest.test_traceback": "asks for the private type of the remote traceback",
    "ProcessPoolShutdownTest.test_context_manager_shutdown": "joins _processes",
    "ProcessPoolShutdownTest.test_del_shutdown": "joins _processes, _call_queue and the manager thread",
    "ProcessPoolShutdownTest.test_processes_terminate": "counts _processes; passes a semaphore that cannot be pickled",
    "ProcessPoolShutdownTest.test_shutdown_no_wait": "joins _processes, _call_queue and the manager thread",
}

# Tests that say nothing about this executor.
EXCLUDED = {
    "FailingInitializerResourcesTest.test_resources": (
        "asks how multiprocessing's resource tracker ended, which this executor never starts"
    ),
    "ProcessPoolExecutorTest.test_killed_child": (
        "wants the pool broken for good by one dead process: here that fails one call, and the pool goes on"
    ),
    "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context": (
        "reads _mp_context; here the start method has no effect, as slots always start from a clean process"
    ),
    "ProcessPoolExecutorTest.test_python_finalization_error": (
        "breaks the start of the other class's second thread, by its private position among the threads started"
    ),
}


def shim_of(test_id: str) -> str | None:
    """What a test needs a shim for, or None."""
    return SHIMMED.get(test_id) or SHIMMED.get(f"{test_id.partition('.')[0]}.*")
