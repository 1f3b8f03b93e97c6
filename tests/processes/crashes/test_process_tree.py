"""Finding processes by what they carry."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dragonfly_executor.runner import process_tree


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only /proc tells of other processes' environment")
def test_a_process_is_found_in_the_middle_of_its_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment is empty for an instant, just when `Popen` comes back."""
    marker = f"DRAGONFLY_TEST_MARKER={os.urandom(8).hex()}"
    name, _, value = marker.partition("=")
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(150):
            process = subprocess.Popen(["/bin/sleep", "600"], env={name: value, "A_LONG_ONE": "x" * 100_000})
            started.append(process)
            with monkeypatch.context() as alone:
                # To look at all the others first would take long enough.
                alone.setattr(os, "listdir", lambda _path, pid=process.pid: [str(pid)])
                assert process_tree.members([], marker.encode()) == [process.pid]
    finally:
        for process in started:
            process.kill()
            process.wait()
