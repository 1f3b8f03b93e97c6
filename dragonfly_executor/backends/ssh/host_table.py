"""The hosts of a backend as its boots share them: who has a place where, and what is held against a host."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dragonfly_executor import errors
from dragonfly_executor.backends.base import BOOT_FAILED
from dragonfly_executor.backends.ssh.hosts import HostBook, SSHHost
from dragonfly_executor.util.backoff import delay, exponential

if TYPE_CHECKING:
    from dragonfly_executor.util.validation import Wait

logger = logging.getLogger("dragonfly_executor")


class Place:
    """The place of one runner on a host, from the beginning of its boot until `release`.

    Attributes:
        host: the host.
        number: the number of the host in the backend's list.
    """

    def __init__(self, places: Places, number: int) -> None:
        self.host = places.hosts[number]
        self.number = number
        self._places = places

    def worked(self) -> None:
        """The runner is up."""
        with self._places.changing() as book:
            book.worked(self.number)

    def leaving(self) -> None:
        """The runner that was up is being stopped."""
        with self._places.changing() as book:
            book.leaving(self.number)

    def release(self) -> None:
        """Give the place back; nothing is held against the host."""
        with self._places.changing() as book:
            book.release(self.number)

    def failed(self, error: errors.BootError) -> None:
        """Give the place back, because the boot failed there. The host is set aside, or not used any more."""
        if isinstance(error, errors.HostKeyError | errors.VersionMismatchError):
            with self._places.changing() as book:
                book.refuse(self.number, error)
                book.release(self.number)
            logger.warning("host %s is not used any more: %s", self.host, error.args[0], extra=BOOT_FAILED)
            return
        pause = self._set_aside()
        logger.warning("host %s is set aside for %.1f s: %s", self.host, pause, error.args[0], extra=BOOT_FAILED)

    def overtaken(self, winner: SSHHost) -> None:
        """Give the place back, because a host that was asked later has answered first. This host is set aside."""
        pause = self._set_aside()
        logger.info("host %s is set aside for %.1f s: %s was asked later, and answered first", self.host, pause, winner)

    def _set_aside(self) -> float:
        """Give the place back, and let others go before the host for a while. Return the seconds."""
        # A strategy of the user's own may take its time: not under the lock.
        pause = self._places.pause_after(self.number)
        with self._places.changing() as book:
            book.set_aside(self.number, time.monotonic() + pause)
            book.release(self.number)
        return pause


class Places:
    """Any thread.

    Args:
        hosts: the hosts of the backend.
        sizes: how many runners each carries.
        wait: the user's strategy for how long a host that failed is set aside, or None.
    """

    def __init__(self, hosts: Sequence[SSHHost], sizes: Sequence[int], wait: Wait | None) -> None:
        self.hosts = hosts
        self._wait = wait
        self._book = HostBook(sizes)
        self._lock = threading.Lock()
        """Of the book and the watchers."""
        self._watchers: list[Callable[[], object]] = []

    @property
    def size(self) -> int:
        """Runners on all hosts together."""
        return self._book.size

    def take(self, but: Collection[int]) -> Place | None:
        """Return a place on the host whose turn it is, or None if there is none.

        Args:
            but: the numbers of the hosts that this boot has tried, or tries now.
        """
        with self._lock:
            number = self._book.choose(time.monotonic(), but)
        return None if number is None else Place(self, number)

    def may_come_free(self) -> bool:
        """Return whether a boot or a stop is under way, so that a place may come free."""
        with self._lock:
            return self._book.may_come_free()

    @contextmanager
    def watched(self, changed: Callable[[], object]) -> Iterator[None]:
        """Call `changed` after each change while the block runs; it must not block."""
        with self._lock:
            self._watchers.append(changed)
        try:
            yield
        finally:
            with self._lock:
                self._watchers.remove(changed)

    @contextmanager
    def changing(self) -> Iterator[HostBook]:
        """Change the book."""
        with self._lock:
            yield self._book
            for changed in self._watchers:
                changed()

    def pause_after(self, number: int) -> float:
        """Count a failure of a host. Return for how many seconds the host is set aside."""
        with self._lock:
            failures = self._book.failed(number)
        if self._wait is None:
            return exponential(failures, first=1.0, most=300.0, jitter=1.0)
        return delay(self._wait, failures)

    def nothing_left(self, tried: Mapping[int, errors.BootError]) -> errors.BootError:
        """Return the error that says why no host is left for a runner.

        Args:
            tried: how the boot has failed on the hosts that it has tried, by their numbers.
        """
        with self._lock:
            refused = {place: entry.refused for place, entry in enumerate(self._book.entries) if entry.refused}
            full = [place for place, entry in enumerate(self._book.entries) if entry.runners >= entry.size]
            aside = [place for place, entry in enumerate(self._book.entries) if entry.failures]
        causes: dict[int, Exception] = {**refused, **tried}
        hopeless = len(refused) == len(self.hosts)
        first = next(iter(causes.values()), None)
        if len(self.hosts) == 1 and first is not None:
            return _again(first) if hopeless and not tried else tried[0]
        told = [f"{self.hosts[place]}: {error.args[0]} (phase: {_phase(error)})" for place, error in causes.items()]
        told += [f"{self.hosts[place]} carries as many runners as it may" for place in full if place not in causes]
        for place in set(range(len(self.hosts))).difference(causes, full):
            why = "it is set aside after a failure" if place in aside else "the time that a boot has was over"
            told.append(f"{self.hosts[place]} was not tried: {why}")
        text = "no host can carry a runner:\n  " + "\n  ".join(told)
        kind = type(first) if hopeless and isinstance(first, errors.BootError) else errors.BootError
        outputs = [error.output for error in tried.values() if error.output]
        combined = kind(text, _phase(first), output="\n".join(outputs))
        combined.__cause__ = first
        return combined


def _again(error: Exception) -> errors.BootError:
    """An error for another boot: each collects a traceback of its own."""
    kind = type(error) if isinstance(error, errors.BootError) else errors.BootError
    copy = kind(str(error.args[0]), _phase(error), output=getattr(error, "output", ""))
    copy.__cause__ = error.__cause__ or error
    return copy


def _phase(error: Exception | None) -> str:
    return error.phase if isinstance(error, errors.BootError) else "create"
