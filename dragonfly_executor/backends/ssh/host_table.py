"""The hosts of a backend, shared by its boots: the places that are taken, and the failures of each host."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dragonfly_executor import errors
from dragonfly_executor.backends.base import BOOT_FAILED
from dragonfly_executor.backends.ssh.hosts import HostSelector, SSHHost
from dragonfly_executor.util.backoff import delay, exponential

if TYPE_CHECKING:
    from dragonfly_executor.util.validation import Wait

logger = logging.getLogger("dragonfly_executor")


class HostPlace:
    """The place of one runner on a host, from the beginning of its boot until `release`.

    Attributes:
        host: the host.
        number: the number of the host in the backend's list.
    """

    def __init__(self, places: HostTable, number: int) -> None:
        self.host = places.hosts[number]
        self.number = number
        self._places = places

    def worked(self) -> None:
        """Record that the runner is up."""
        with self._places.changing() as selector:
            selector.worked(self.number)

    def leaving(self) -> None:
        """Record that the runner, which was up, is being stopped."""
        with self._places.changing() as selector:
            selector.leaving(self.number)

    def release(self) -> None:
        """Release the place. No failure is recorded for the host."""
        with self._places.changing() as selector:
            selector.release(self.number)

    def failed(self, error: errors.BootError) -> None:
        """Release the place after a failed boot. Set the host aside, or exclude it for good."""
        if isinstance(error, errors.HostKeyError | errors.VersionMismatchError):
            with self._places.changing() as selector:
                selector.refuse(self.number, error)
                selector.release(self.number)
            logger.warning("host %s is not used any more: %s", self.host, error.args[0], extra=BOOT_FAILED)
            return
        pause = self._set_aside()
        logger.warning("host %s is set aside for %.1f s: %s", self.host, pause, error.args[0], extra=BOOT_FAILED)

    def overtaken(self, winner: SSHHost) -> None:
        """Release the place after another host, tried later, has answered first. Set this host aside."""
        pause = self._set_aside()
        logger.info("host %s is set aside for %.1f s: %s was asked later, and answered first", self.host, pause, winner)

    def _set_aside(self) -> float:
        """Release the place, and prefer other hosts for a while. Return the seconds."""
        # Not under the lock, as a user's wait strategy may be slow.
        pause = self._places.pause_after(self.number)
        with self._places.changing() as selector:
            selector.set_aside(self.number, time.monotonic() + pause)
            selector.release(self.number)
        return pause


class HostTable:
    """The places on all hosts. Any thread.

    Args:
        hosts: the hosts of the backend.
        sizes: the number of places on each host.
        wait: the user's wait strategy for a failed host, or None.
    """

    def __init__(self, hosts: Sequence[SSHHost], sizes: Sequence[int], wait: Wait | None) -> None:
        self.hosts = hosts
        self._wait = wait
        self._selector = HostSelector(sizes)
        self._lock = threading.Lock()
        """Guards the selector and the watchers."""
        self._watchers: list[Callable[[], object]] = []

    @property
    def size(self) -> int:
        """Return the number of places on all hosts together."""
        return self._selector.size

    def take(self, but: Collection[int]) -> HostPlace | None:
        """Return a place on the host whose turn it is, or None if there is none.

        Args:
            but: the numbers of the hosts that this boot has tried or is trying.
        """
        with self._lock:
            number = self._selector.choose(time.monotonic(), but)
        return None if number is None else HostPlace(self, number)

    def may_come_free(self) -> bool:
        """Return True if a boot or a stop is in progress, so that a place may become free."""
        with self._lock:
            return self._selector.may_come_free()

    @contextmanager
    def watched(self, changed: Callable[[], object]) -> Iterator[None]:
        """Call `changed` after each change while in the block. It must not block."""
        with self._lock:
            self._watchers.append(changed)
        try:
            yield
        finally:
            with self._lock:
                self._watchers.remove(changed)

    @contextmanager
    def changing(self) -> Iterator[HostSelector]:
        """Lock the selector for a change in the block, then call the watchers."""
        with self._lock:
            yield self._selector
            for changed in self._watchers:
                changed()

    def pause_after(self, number: int) -> float:
        """Count a failure of a host. Return the seconds for which the host is set aside."""
        with self._lock:
            failures = self._selector.failed(number)
        if self._wait is None:
            return exponential(failures, first=1.0, most=300.0, jitter=1.0)
        return delay(self._wait, failures)

    def nothing_left(self, tried: Mapping[int, errors.BootError]) -> errors.BootError:
        """Return the error that says why no host can get the runner.

        Args:
            tried: the failures of this boot by host number.
        """
        with self._lock:
            refused = {place: entry.refused for place, entry in enumerate(self._selector.entries) if entry.refused}
            full = [place for place, entry in enumerate(self._selector.entries) if entry.runners >= entry.size]
            aside = [place for place, entry in enumerate(self._selector.entries) if entry.failures]
        causes: dict[int, Exception] = {**refused, **tried}
        hopeless = len(refused) == len(self.hosts)
        first = next(iter(causes.values()), None)
        if len(self.hosts) == 1 and first is not None:
            return _again(first) if hopeless and not tried else tried[0]
        told = [f"{self.hosts[place]}: {error.args[0]} (phase: {_phase(error)})" for place, error in causes.items()]
        told += [f"{self.hosts[place]} has its maximum of runners" for place in full if place not in causes]
        for place in set(range(len(self.hosts))).difference(causes, full):
            why = "it is set aside after a failure" if place in aside else "the boot timeout was over"
            told.append(f"{self.hosts[place]} was not tried: {why}")
        text = "no host can carry a runner:\n  " + "\n  ".join(told)
        kind = type(first) if hopeless and isinstance(first, errors.BootError) else errors.BootError
        outputs = [error.output for error in tried.values() if error.output]
        combined = kind(text, _phase(first), output="\n".join(outputs))
        combined.__cause__ = first
        return combined


def _again(error: Exception) -> errors.BootError:
    """Return a copy of an error for another boot, so that boots do not share a traceback."""
    kind = type(error) if isinstance(error, errors.BootError) else errors.BootError
    copy = kind(str(error.args[0]), _phase(error), output=getattr(error, "output", ""))
    copy.__cause__ = error.__cause__ or error
    return copy


def _phase(error: Exception | None) -> str:
    return error.phase if isinstance(error, errors.BootError) else "create"
