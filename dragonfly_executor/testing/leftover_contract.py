"""The contract of backends whose nodes may outlive their pool, and so can be listed and swept."""

from __future__ import annotations

import subprocess
import sys
import unittest
from collections.abc import Iterator
from contextlib import contextmanager

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.found_node import FoundNode, SweepResult
from dragonfly_executor.backends.owner import Liveness, Owner
from dragonfly_executor.testing.node_streams import DialedStreams, NodeStreams

OTHER_PARENT = (sys.executable, "-c", "import sys; sys.stdin.read()")
"""A process that stands for another pool's program."""


class LeftoverContract:
    """Test methods that `BackendContract` has too. They are skipped if the backend does not define `list_nodes`.

    Nodes of another program are booted by this process with that program's `Owner`. So a backend must call `Owner.me`
    at each boot and at each sweep.
    """

    patience: float = 60.0

    def make_backend(self) -> Backend:
        """Return a backend that works."""
        raise NotImplementedError

    def test_a_node_is_listed_with_its_owner_until_it_is_stopped(self) -> None:
        """Check that a sweep spares the node of this process."""
        backend = self._listing_backend()
        with self._node_streams(backend) as streams:
            request = streams.request(1)
            node = backend.boot(request)
            try:
                (found,) = _existing(backend)
                check_same((found.liveness, found.pool), (Liveness.ALIVE, request.parent.pool))
                check_same(found.owner, Owner.me())
                check_same(backend.sweep(), SweepResult[FoundNode]([], []))
                check_same([one.name for one in _existing(backend)], [found.name])
            finally:
                node.stop()
            check_same(_existing(backend), [])
        self._nothing_is_left(backend)

    def test_the_node_of_another_program_is_swept_once_that_program_has_ended(self) -> None:
        """Check that a sweep spares the node while its owner lives, and destroys it afterwards."""
        backend = self._listing_backend()
        with (
            self._node_streams(backend) as streams,
            subprocess.Popen(OTHER_PARENT, stdin=subprocess.PIPE) as parent,
        ):
            with _owned_by(Owner.of(parent.pid)):
                node = backend.boot(streams.request(1))
            try:
                check_same([found.liveness for found in _existing(backend)], [Liveness.ALIVE])
                check_same(backend.sweep(), SweepResult[FoundNode]([], []))
                (found,) = _existing(backend)
                parent.kill()
                parent.wait()
                check_same([found.is_orphan for found in _existing(backend)], [True])
                swept = backend.sweep()
                check_same(([one.name for one in swept.destroyed], swept.left), ([found.name], []))
                check_same(_existing(backend), [])
            finally:
                parent.kill()
                node.stop()
        self._nothing_is_left(backend)

    def test_the_node_of_a_program_elsewhere_is_not_swept(self) -> None:
        """Check that a sweep spares a node whose owner cannot be checked from this machine."""
        backend = self._listing_backend()
        with self._node_streams(backend) as streams:
            with _owned_by(Owner.me()._replace(host="elsewhere")):
                node = backend.boot(streams.request(1))
            try:
                check_same([found.liveness for found in _existing(backend)], [Liveness.UNKNOWN])
                check_same(backend.sweep(), SweepResult[FoundNode]([], []))
                (found,) = _existing(backend)
                swept = backend.destroy_nodes([found])
                check_same(([one.name for one in swept.destroyed], swept.left), ([found.name], []))
            finally:
                node.stop()
        self._nothing_is_left(backend)

    def _listing_backend(self) -> Backend:
        backend = self.make_backend()
        if type(backend).list_nodes is Backend.list_nodes:
            raise unittest.SkipTest("the backend does not define list_nodes: its nodes end with their pool")
        me = Owner.me()
        if me.liveness(me) is not Liveness.ALIVE:
            raise unittest.SkipTest("in this container, a process cannot tell whether another one is alive")
        return backend

    def _node_streams(self, backend: Backend) -> NodeStreams:
        return DialedStreams(backend, self.patience) if backend.dials_back else NodeStreams(backend, self.patience)

    def left_running(self, backend: Backend) -> object:
        """Return the nodes of this backend that still run or cost money."""
        raise NotImplementedError

    def _nothing_is_left(self, backend: Backend) -> None:
        left = self.left_running(backend)
        check_that(not left, f"still there: {left}")


def _existing(backend: Backend) -> list[FoundNode]:
    return [found for found in backend.list_nodes() if found.exists]


@contextmanager
def _owned_by(owner: Owner) -> Iterator[None]:
    """Have backends take this process for another one while in the block."""
    # Imported late, because it loads asyncio, and every user of `testing` loads this module.
    from unittest import mock

    with mock.patch.object(Owner, "me", return_value=owner):
        yield


def check_same(found: object, expected: object) -> None:
    """Raise AssertionError unless both values are equal."""
    check_that(found == expected, f"{found!r} is not {expected!r}")


def check_that(holds: bool, complaint: str) -> None:
    """Raise AssertionError with this text unless `holds`."""
    # Not the assert statement: pytest does not rewrite asserts of this module, and python may run it with -O.
    if not holds:
        raise AssertionError(complaint)
