"""CPython's tests of `multiprocessing.Pool`, as classes of this module: slots import it for the functions of the tests.

``UPSTREAM_START_METHOD`` is the start method of what the tests themselves start, and of the control's pools.
"""

from __future__ import annotations

import os

from test import _test_multiprocessing as upstream  # type: ignore[import-not-found, attr-defined, unused-ignore]

upstream.install_tests_in_module_dict(
    globals(), os.environ.get("UPSTREAM_START_METHOD", "spawn"), only_type="processes"
)
TestInitializers = upstream.TestInitializers
