"""A runner on a host that is not the parent's: a keeper, which clears away what an agent leaves, and the agent."""

from __future__ import annotations

import os

from dragonfly_executor.runner import agent, orphans, process_tree
from dragonfly_executor.transport.streams import DescriptorPair

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def run(reading: int, writing: int, patience: float = 60.0, dial: dict[str, Any] | None = None) -> NoReturn:
    """Be a runner on the stream that these two descriptors are, or on a link of its own. Does not return.

    Nobody on the host can be asked to sweep after an agent that was killed, and slots alone die with it: what their
    calls have started would go on. So the agent is a child of this process, which waits for its end. If this process is
    killed too, the next boot on the host ends what is left.

    Args:
        reading, writing: the parent's stream.
        patience: seconds until the parent has to have let it in.
        dial: where the agent is to dial back to its parent instead, as `ssh_dialback` has it.
    """
    if dial is not None:
        # It loads ssl, which a runner on a stream has no use for.
        from dragonfly_executor.runner import ssh_dialback

        status, record = ssh_dialback.run(reading, writing, dial["parent"], dial["failsafe"])
    else:
        status, record = _run_on_stream(reading, writing, patience)
    process_tree.kill_children()
    record.remove()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _run_on_stream(reading: int, writing: int, patience: float) -> tuple[int, orphans.Record]:
    """Return how the agent has ended, as waitpid has it, and the record of the runner."""
    pid = os.fork()
    if pid == 0:
        agent.run(DescriptorPair(reading, writing), patience=patience)
        os._exit(1)
    for fd in {reading, writing}:
        os.close(fd)
    process_tree.become_subreaper()
    record = orphans.Record(pid)
    orphans.sweep()
    return os.waitpid(pid, 0)[1], record
