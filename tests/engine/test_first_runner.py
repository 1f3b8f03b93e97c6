"""What a pool loads only while its first runner starts."""

from __future__ import annotations

import subprocess
import sys

from tests.support.helpers import PATIENCE

PROGRAM = """
import sys

from dragonfly_executor import DragonflyExecutor, LocalBackend

LATE = {"dragonfly_executor.engine.runner_connection", "concurrent.futures.process", "json"}


class Backend(LocalBackend):
    def boot(self, request):
        node = super().boot(request)
        print(sorted(LATE & sys.modules.keys()))
        return node


with DragonflyExecutor(1, backend=Backend()) as executor:
    assert executor.submit(abs, -1).result() == 1
    print(LATE <= sys.modules.keys())
    print("hashlib" in sys.modules)
"""


def test_the_launch_of_the_first_runner_waits_for_nothing_that_is_needed_later() -> None:
    command = [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{PROGRAM}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (ran.stdout.splitlines(), ran.stderr) == (["[]", "True", "False"], "")
