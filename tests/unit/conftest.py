"""What holds for every test in here: it starts no thread and no process."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse threads and processes. A test that needs one belongs in `engine/` or `processes/`."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a unit test starts no thread and no process")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(os, "fork", refuse)
