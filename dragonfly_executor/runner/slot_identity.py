"""Makes a slot a worker to multiprocessing and logging, with a name and a parent process.

This module imports neither of them. It configures them once the user's code imports them.
"""

from __future__ import annotations

import os

from dragonfly_executor.protocol.parent import VARIABLE, Parent
from dragonfly_executor.serialization.post_import_hook import PostImportHooks
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

MAIN = "MainProcess"
"""The name that multiprocessing and logging use for a process without a name."""


class SlotIdentity:
    """The name of a slot. The agent makes it, and each slot sets its own number."""

    def __init__(self) -> None:
        self._number = self._agent_pid = 0
        # Decoded only once a name is needed, because that takes a tenth of a slot's start.
        self._encoded: str | None = None
        self._hooks = PostImportHooks(
            {
                "multiprocessing.process": lambda process: _be_worker(process, *self._names(), self._agent_pid),
                "logging": lambda logging: _name_records(logging, self._names()[0]),
            }
        )

    def set(self, number: int, agent_pid: int) -> None:
        """Name this process as the slot with this number on its runner."""
        self._number, self._agent_pid = number, agent_pid
        self._encoded = os.environ.get(VARIABLE)
        self._hooks.install()

    def _names(self) -> tuple[str, str]:
        """Return the name of this slot and the name of its agent."""
        runner = f"{Parent.decode(self._encoded).runner_id}-" if self._encoded else ""
        return f"DragonflySlot-{runner}{self._number}", f"DragonflyAgent-{runner}".rstrip("-")


def _be_worker(process: Any, slot: str, agent: str, agent_pid: int) -> None:
    process.current_process().name = slot
    if hasattr(os, "pidfd_open"):
        # The pidfd is readable once the agent has ended, as `parent_process().is_alive()` and `.join()` expect. Without
        # pidfds, no parent process is set.
        process._parent_process = process._ParentProcess(agent, agent_pid, os.pidfd_open(agent_pid))  # noqa: SLF001


def _name_records(logging: Any, slot: str) -> None:
    """Put the slot's name into log records: logging asks multiprocessing only if that is imported."""
    make = logging.getLogRecordFactory()

    def make_record(*args: Any, **kwargs: Any) -> Any:
        record = make(*args, **kwargs)
        if record.processName == MAIN:
            record.processName = slot
        return record

    logging.setLogRecordFactory(make_record)
