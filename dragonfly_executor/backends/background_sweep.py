"""Sweeps on a background thread while a backend boots nodes, so that no call waits for the sweep."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from dragonfly_executor.backends.base import CancelToken, Signal
from dragonfly_executor.backends.deadline import Deadline

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.backends.found_node import SweepResult

logger = logging.getLogger("dragonfly_executor")

SWEEP_WAIT = 1.0
"""Seconds that a boot waits for the sweep while its node starts. The wait ends early when the runner dials in."""
SWEEP_GRACE = 2.0
"""Seconds that a sweep may still take after the last node was stopped. A sweep has usually ended long before."""


class BackgroundSweeper:
    """Starts a sweep on its own thread when a node was created and a sweep is due.

    A sweep is due for the backend's first node, and after a node whose destruction was not confirmed. When the
    backend's last node is stopped, a running sweep has `SWEEP_GRACE` seconds to finish. After that it is cancelled,
    and a sweep is due again. A sweep destroys no node of its own process, since that process is alive.

    Args:
        sweep: destroys the orphaned nodes before a deadline. It runs on the thread.
        backend: the backend's name.
        noun: the platform's word for a node, such as "machine".
        wanted: whether the backend sweeps by itself.
    """

    def __init__(self, sweep: Callable[[Deadline], SweepResult[Any]], *, backend: str, noun: str, wanted: bool) -> None:
        self._sweep_now = sweep
        self._backend = backend
        self._noun = noun
        self._wanted = wanted
        self._is_due = wanted
        self._lock = threading.Lock()
        """Guards the fields, as boots and stops run concurrently."""
        self._nodes = 0
        self._thread: threading.Thread | None = None
        self._given_up = CancelToken()
        self._ended = Signal()

    def ask(self) -> None:
        """Make a sweep due when the next node is created."""
        self._is_due = self._wanted

    def node_came(self, timeout: float) -> None:
        """Count a node that was created, and start a sweep of at most `timeout` seconds if one is due."""
        with self._lock:
            self._nodes += 1
            if not self._is_due or self._thread is not None:
                return
            self._is_due = False
            self._given_up, self._ended = given_up, ended = CancelToken(), Signal()
            sweep = self._sweep(Deadline(timeout, given_up), given_up, ended)
            thread = threading.Thread(target=sweep, name=f"dragonfly-{self._backend}-sweep", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The process has no room for another thread; the next boot tries again.
                self._is_due = True
                return
            self._thread = thread

    def wait_a_moment(self, *until: Signal | None) -> None:
        """Wait for a running sweep, but for at most `SWEEP_WAIT` seconds. Each of these signals ends the wait."""
        with self._lock:
            ended = None if self._thread is None else self._ended
        if ended is None:
            return
        woken = threading.Event()
        signals = [ended, *(signal for signal in until if signal is not None)]
        for signal in signals:
            signal.call(woken.set)
        woken.wait(SWEEP_WAIT)
        for signal in signals:
            signal.forget(woken.set)

    def node_left(self) -> None:
        """Count a node that was stopped. After the last one, wait for the sweep for at most `SWEEP_GRACE` s."""
        with self._lock:
            self._nodes -= 1
            thread, given_up = self._thread, self._given_up
            if self._nodes or thread is None:
                return
        thread.join(SWEEP_GRACE)
        with self._lock:
            if not self._nodes:
                given_up.set()

    def _sweep(self, deadline: Deadline, given_up: CancelToken, ended: Signal) -> Callable[[], None]:
        def run() -> None:
            """Sweep on the thread."""
            try:
                sweep_and_tell(self._sweep_now, deadline, self._noun)
            finally:
                with self._lock:
                    self._thread = None
                    self._is_due = self._is_due or (self._wanted and given_up.is_set())
                ended.set()

        return run


def sweep_and_tell(sweep: Callable[[Deadline], SweepResult[Any]], deadline: Deadline, noun: str) -> None:
    """Sweep, and log the result. A failure is one warning."""
    try:
        swept = sweep(deadline)
    except Exception as error:  # the traceback of a background thread does not help users
        if not deadline.is_cancelled:
            logger.warning("could not look for %ss that were left behind: %s", noun, error)
        return
    for one in swept.destroyed:
        logger.warning("destroyed %s %s, which was left behind: %s", noun, one.name, one.why)
    for one, what in () if deadline.is_cancelled else swept.left:
        logger.warning("%s %s was left behind and is not destroyed: %s", noun, one.name, what)
