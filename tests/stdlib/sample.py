"""Tests in upstream's manner with a known outcome each: what `test_harness` holds the harness to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import unittest
from concurrent import futures
from multiprocessing import get_context
from types import ModuleType
from typing import Any


class ProcessPoolSpawnSampleTest(unittest.TestCase):
    executor_type: Any = futures.ProcessPoolExecutor

    def test_passes(self) -> None:
        with self.executor_type(1, mp_context=get_context("spawn")) as executor:
            assert executor.submit(pow, 2, 8).result() == 256

    def test_fails(self) -> None:
        self.fail("as expected")

    def test_skips(self) -> None:
        self.skipTest("as expected")

    def test_hangs(self) -> None:
        threading.Event().wait()

    def test_crashes(self) -> None:
        os.abort()

    def test_hangs_at_exit(self) -> None:
        threading.Thread(target=threading.Event().wait).start()

    def test_leaves_process(self) -> None:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)

    def test_leaves_thread(self) -> None:
        # As upstream's own clean-up says it, without depending on it.
        sys.modules["test.support"] = ModuleType("test.support")
        sys.modules["test.support"].environment_altered = True  # type: ignore[attr-defined]

    def test_loses_error(self) -> None:
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
