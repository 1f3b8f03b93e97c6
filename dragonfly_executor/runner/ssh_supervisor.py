"""Runs a runner on an SSH host: an agent, and a supervisor that kills the orphans of the agent."""

from __future__ import annotations

import os

from dragonfly_executor.runner import agent, orphans, process_tree
from dragonfly_executor.transport.streams import DescriptorPair
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn


def run(reading: int, writing: int, timeout: float = 60.0, dial: dict[str, Any] | None = None) -> NoReturn:
    """Run a runner on the stream of these two descriptors, or on a link of its own. Does not return.

    If an agent is killed, its slots die with it, but the processes that their calls started do not. So the agent is a
    child of this process, which waits for its end and then kills these orphans. If this process is killed too, the next
    boot on the host does so.

    Args:
        reading, writing: the descriptors of the parent's stream.
        timeout: seconds within which the parent must admit the runner.
        dial: the address to dial back to instead, in the form that `ssh_dialback` reads.
    """
    if dial is not None:
        # Imported only here, because it loads ssl, which a runner on a stream does not need.
        from dragonfly_executor.runner import ssh_dialback

        status, record = ssh_dialback.run(reading, writing, dial["parent"], dial["failsafe"])
    else:
        status, record = _run_on_stream(reading, writing, timeout)
    process_tree.kill_children()
    record.remove()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _run_on_stream(reading: int, writing: int, timeout: float) -> tuple[int, orphans.RunnerRecord]:
    """Return the agent's wait status, and the record of the runner."""
    pid = os.fork()
    if pid == 0:
        agent.run(DescriptorPair(reading, writing), timeout=timeout, starters=1)
        os._exit(1)
    for fd in {reading, writing}:
        os.close(fd)
    process_tree.become_subreaper()
    record = orphans.RunnerRecord(pid)
    orphans.sweep()
    return os.waitpid(pid, 0)[1], record
