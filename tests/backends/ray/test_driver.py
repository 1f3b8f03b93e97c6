"""The driver's life while `ray.init` runs, with a module in place of Ray that never connects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.helpers import Mailbox, all_ended, watching

RAY_THAT_NEVER_CONNECTS = """
import os
import signal

def init(address, **options):
    with open(os.environ["MAILBOX"], "w") as mailbox:
        print(os.getpid(), file=mailbox)
    while True:
        signal.pause()
"""
PARENT = """
import signal
from dragonfly_executor import DragonflyExecutor, RayBackend

executor = DragonflyExecutor(backend=RayBackend("127.0.0.1:9", sync=None), max=1)
executor.submit(int)
signal.pause()
"""


def test_a_parent_that_is_killed_while_ray_connects_leaves_no_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mailbox: Mailbox
) -> None:
    (tmp_path / "ray.py").write_text(RAY_THAT_NEVER_CONNECTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MAILBOX", mailbox.path)
    parent = subprocess.Popen([sys.executable, "-c", PARENT])
    try:
        with watching(int(mailbox.read())) as drivers:
            parent.kill()
            assert all_ended(drivers)
    finally:
        parent.kill()
        parent.wait()
