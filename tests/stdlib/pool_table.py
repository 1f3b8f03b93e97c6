"""Which of CPython's tests of `multiprocessing.Pool` need a shim, and which are left out, each with its reason.

Every other test runs with nothing but the class exchanged. An id is ``Class.method``, without the kind of the pool.
"""

from __future__ import annotations

# Tests of the public contract that look into the other class on the way; `pool_shims` gives them something to look at.
SHIMMED = {
    "TestPool.test_make_pool": "counts _pool",
    "TestPool.test_traceback": "asks for the private type of the remote traceback",
    "TestPoolWorkerLifetime.test_pool_worker_lifetime": "counts _pool, and has it filled up",
}

# Tests that want another answer than this pool gives.
EXCLUDED = {
    "TestInitializers.test_pool_initializer": (
        "wants the initializer to run in a pool without calls: here a slot starts with its first call"
    ),
    "TestPool.test_map_unplicklable": (
        "wants the error of __reduce__ itself: here it is the cause of a CallSerializationError, which names the part"
    ),
    "TestPoolWorkerErrors.test_unpickleable_result": (
        "wants a MaybeEncodingError for a lambda as a result: here a lambda travels, and what cannot travel is a "
        "ResultSerializationError"
    ),
}
