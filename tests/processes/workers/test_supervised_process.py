"""`SupervisedProcess`: signals that come when the process has just ended."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from dragonfly_executor.protocol.placed_messages import SlotSays
from dragonfly_executor.runner.placed_process import SupervisedProcess

SETTINGS = {"cwd": None, "env": None, "input": None, "output": "capture", "max_output": None, "stop_timeout": 10.0}


class LateChannel:
    """Sends something once the process has ended, and before the slot has noticed that."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.on_signal: Any = None
        self.on_stop: Any = None

    def say(self, what: str, *args: Any) -> None:
        if what == SlotSays.READY:
            os.waitid(os.P_PID, args[0], os.WEXITED | os.WNOWAIT)
            self.on_signal(signal.SIGUSR1) if self._what == "signal" else self.on_stop()


@pytest.mark.parametrize("what", ["signal", "stop"])
def test_a_signal_after_the_end_does_not_take_the_exit_status(what: str) -> None:
    result = SupervisedProcess(LateChannel(what), ["sh", "-c", "echo said; exit 3"], SETTINGS).run()
    assert (result.returncode, result.stdout) == (3, b"said\n")
