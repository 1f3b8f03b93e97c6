"""The sweep that goes with a backend's boots: beside them, so that no call waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from dragonfly_executor.backends.base import GivenUp
from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.journal import Journal
from dragonfly_executor.backends.fly.patience import Patience
from dragonfly_executor.backends.fly.sweep import Sweeper

logger = logging.getLogger("dragonfly_executor")


class SweepBeside:
    """Sweeps when a machine was created, if a sweep is due, on a thread of its own.

    The first machine makes one due, and so does a machine that could not be seen to be destroyed. A sweep is cut short
    when the backend's last machine is given back, and is due again then. It takes no machine of its own process: that
    one is alive.

    Args:
        api: the app's machines.
        journal: None for none.
        wanted: whether the backend sweeps by itself.
    """

    def __init__(self, api: MachinesAPI, journal: Journal | None, *, wanted: bool) -> None:
        self._api = api
        self._journal = journal
        self._wanted = wanted
        self._is_due = wanted
        self._lock = threading.Lock()
        """Boots and stops run at the same time."""
        self._nodes = 0
        self._thread: threading.Thread | None = None
        self._given_up = GivenUp()

    def ask(self) -> None:
        """Sweep when the next machine was created."""
        self._is_due = self._wanted

    def node_came(self, patience: float) -> None:
        """A machine was created: sweep beside what follows, for so many seconds at most."""
        with self._lock:
            self._nodes += 1
            if not self._is_due or self._thread is not None:
                return
            self._is_due = False
            self._given_up = given_up = GivenUp()
            sweep = self._sweep(Patience(patience, given_up), given_up)
            thread = threading.Thread(target=sweep, name="dragonfly-fly-sweep", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # None is to be had now; the next boot tries again.
                self._is_due = True
                return
            self._thread = thread

    def node_left(self) -> None:
        """A machine was given back. Nobody waits for the sweep."""
        with self._lock:
            self._nodes -= 1
            if not self._nodes:
                self._given_up.set()

    def _sweep(self, patience: Patience, given_up: GivenUp) -> Callable[[], None]:
        def run() -> None:
            """On the thread."""
            try:
                sweep_and_tell(Sweeper(self._api, self._journal), patience)
            finally:
                with self._lock:
                    self._thread = None
                    self._is_due = self._is_due or (self._wanted and given_up.is_set())

        return run


def sweep_and_tell(sweeper: Sweeper, patience: Patience) -> None:
    """Sweep, and log what that did; whatever goes wrong is one warning."""
    try:
        swept = sweeper.sweep(patience)
    except Exception as error:  # nothing that it meets is to end a thread with a traceback, nor a program
        if not patience.given_up:
            logger.warning("could not look for machines that were left behind: %s", error)
        return
    for one in swept.destroyed:
        logger.warning("destroyed machine %s, which was left behind: %s", one.name, one.why)
    for one, what in () if patience.given_up else swept.left:
        logger.warning("machine %s was left behind and is not destroyed: %s", one.name, what)
