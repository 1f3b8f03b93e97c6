"""The watchdog ends a runner that does not end itself, on a machine that costs money and has no other supervisor.

It is the machine's main process, and the agent is its child. It holds no state and reads no input, so it works even if
the agent hangs, is stopped or was killed. When the watchdog ends, the machine has no process left and stops.
"""

from __future__ import annotations

import os
import signal

from dragonfly_executor.runner import exit_codes, process_tree
from dragonfly_executor.runner.os_signals import boot_clock
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

SIGN_OF_LIFE = signal.SIGUSR1
SIGN_OF_WORK = signal.SIGUSR2
"""Heartbeat signal of an agent that had calls since its last heartbeat. `SIGN_OF_LIFE` says that it had none."""
EVERY = 10.0
"""Seconds between two heartbeats of an agent."""
SILENCE = 60.0
"""Seconds without a heartbeat after which an agent counts as hanging."""
GRACE = 25.0
"""Seconds that calls have to finish when the machine is stopped. The machine's manager kills after 30 s."""
KILLING = 2.0
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_AWAITED = {signal.SIGCHLD, SIGN_OF_LIFE, SIGN_OF_WORK, *_STOPPING}


def guard(
    agent: Callable[[Callable[[bool], None]], None],
    max_lifetime: float,
    start: float,
    max_idle: float = 0.0,
    silence: float = SILENCE,
) -> NoReturn:
    """Run an agent in a child process, and end it by its deadlines. Does not return.

    Args:
        agent: runs the agent. Its argument is a function that sends a heartbeat. The agent calls that function with
            True if calls were here since the last heartbeat.
        max_lifetime: seconds from now after which the runner is killed.
        start: seconds until the first heartbeat is due, in addition to `silence`.
        max_idle: seconds without a call after which the agent gets a SIGTERM, and `GRACE` seconds to end; 0 for no
            limit.
        silence: maximum seconds between two heartbeats.
    """
    # Block the signals first, so that none is missed: sigtimedwait receives them, and no handler runs.
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    # Orphans of the agent become children of this process, which kills them at the end.
    process_tree.become_subreaper()
    me = os.getpid()
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
        process_tree.die_with_parent(me)
        agent(lambda has_worked: os.kill(me, SIGN_OF_WORK if has_worked else SIGN_OF_LIFE))
        os._exit(1)
    status = _watch(pid, max_lifetime, start, max_idle or float("inf"), silence)
    _kill_all()
    os._exit(status)


def _watch(pid: int, max_lifetime: float, start: float, max_idle: float, silence: float) -> int:
    """Wait until the agent ends or a deadline passes. Return the exit status for this process."""
    end = boot_clock() + max_lifetime
    due = boot_clock() + start + silence
    until_idle = boot_clock() + start + max_idle
    is_idle = False
    while True:
        now = boot_clock()
        if now >= min(end, due):
            code, why = exit_codes.SILENT, "its agent sent no heartbeat"
            if is_idle:
                code, why = exit_codes.IDLE, f"it had no call for {max_idle:g} s, and its agent did not exit"
            elif now >= end:
                code, why = exit_codes.EXPIRED, f"it has run for {max_lifetime:g} s, its max_lifetime"
            os.write(2, f"dragonfly runner: ended, because {why}\n".encode())
            return code
        if now >= until_idle and not is_idle:
            # As if the machine was stopped: a call may be on its way.
            is_idle, end = True, min(end, now + GRACE)
            os.kill(pid, signal.SIGTERM)
        heard = signal.sigtimedwait(_AWAITED, min(end, due, end if is_idle else until_idle) - now)
        if heard is None:
            continue
        if heard.si_signo in (SIGN_OF_LIFE, SIGN_OF_WORK):
            due = boot_clock() + silence
            until_idle = due - silence + max_idle if heard.si_signo == SIGN_OF_WORK else until_idle
        elif heard.si_signo in _STOPPING:
            os.kill(pid, signal.SIGTERM)
        status = _reap(pid)
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            return exit_codes.IDLE if is_idle else code if code >= 0 else 128 - code


def _reap(agent: int) -> int | None:
    """Reap the children that have ended, adopted ones too. Return the agent's wait status if it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == agent:
            return status
        if pid == 0:
            return None


def _kill_all() -> None:
    """Kill the remaining processes. Do not wait for unkillable ones: this process must end."""
    end = boot_clock() + KILLING
    while left := process_tree.children(os.getpid()):
        for pid in left:
            process_tree.kill_tree(pid)
        _reap(0)
        if boot_clock() >= end:
            return
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)
