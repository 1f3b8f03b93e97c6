"""What a slot is to multiprocessing and logging: a worker, with a name and a parent process.

Neither is imported for it: they are told when the user's code imports them.
"""

from __future__ import annotations

import os

from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.serialization.post_import_hook import when_imported

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAIN = "MainProcess"
"""What multiprocessing and logging call a process that nobody has given a name."""


def take_identity(number: int, agent_pid: int) -> None:
    """Have this process known as the slot with this number on its runner."""
    parent = Parent.get()
    runner = "" if parent is None else f"{parent.runner_id}-"
    slot, agent = f"DragonflySlot-{runner}{number}", f"DragonflyAgent-{runner}".rstrip("-")
    when_imported("multiprocessing.process", lambda process: _be_worker(process, slot, agent, agent_pid))
    when_imported("logging", lambda logging: _name_records(logging, slot))


def _be_worker(process: Any, slot: str, agent: str, agent_pid: int) -> None:
    process.current_process().name = slot
    if hasattr(os, "pidfd_open"):
        # Readable once the agent has ended: `parent_process().is_alive()` and `.join()` look at it. Elsewhere no parent
        # process is known.
        process._parent_process = process._ParentProcess(agent, agent_pid, os.pidfd_open(agent_pid))  # noqa: SLF001


def _name_records(logging: Any, slot: str) -> None:
    """Put the slot's name into log records: logging asks multiprocessing only where that is imported."""
    make = logging.getLogRecordFactory()

    def make_record(*args: Any, **kwargs: Any) -> Any:
        record = make(*args, **kwargs)
        if record.processName == MAIN:
            record.processName = slot
        return record

    logging.setLogRecordFactory(make_record)
