"""The part of the contract that is about boots that come together: `Backend.boot_many`."""

from __future__ import annotations

import unittest
from collections.abc import Sequence

from dragonfly_executor import errors
from dragonfly_executor.backends.base import Backend, BootRequest, CancelToken, Node
from dragonfly_executor.protocol.frames import Kind
from dragonfly_executor.testing.leftover_contract import LeftoverContract, check_same, check_that
from dragonfly_executor.testing.node_streams import first_frame


class BatchContract(LeftoverContract):
    """Test methods for any backend; see `BackendContract`, which implements the rest."""

    def make_backend(self) -> Backend:
        """Return a backend that works."""
        raise NotImplementedError

    def test_boots_that_come_together_have_a_node_each(self) -> None:
        """Check `Backend.boot_many`: each request is answered once, and stopping one node does not affect another.

        A backend without a `boot_many` of its own boots the nodes one by one.
        """
        backend = self.make_backend()
        with self._node_streams(backend) as streams:
            requests = [streams.request(number) for number in (1, 2)]
            nodes = self._boot_many(backend, requests)
            try:
                check_same(sorted(nodes), [1, 2])
                nodes[1].stop()
                check_same(first_frame(streams.stream(nodes[2], 2)).kind, Kind.HELLO)
            finally:
                for node in nodes.values():
                    node.stop()
        self._nothing_is_left(backend)

    def test_of_boots_that_come_together_one_may_be_given_up(self) -> None:
        """Check that `BootRequest.given_up` of one boot ends neither the boot nor the node of another one.

        The test is skipped if the backend boots its nodes one by one.
        """
        backend = self.make_backend()
        if backend.max_boots_per_request == 1:
            raise unittest.SkipTest("max_boots_per_request is 1: the backend boots its nodes one by one")
        with self._node_streams(backend) as streams:
            given_up = CancelToken()
            requests = [streams.request(1)._replace(given_up=CancelToken()), streams.request(2)]
            requests.append(streams.request(3)._replace(given_up=given_up))
            given_up.set()
            nodes = self._boot_many(backend, requests)
            try:
                # Its node may exist all the same: the pool stops it, as this test does.
                check_same(sorted({1, 2} - nodes.keys()), [])
                if 3 in nodes:
                    nodes[3].stop()
                check_same(first_frame(streams.stream(nodes[1], 1)).kind, Kind.HELLO)
            finally:
                for node in nodes.values():
                    node.stop()
        self._nothing_is_left(backend)

    def _boot_many(self, backend: Backend, requests: Sequence[BootRequest]) -> dict[int, Node]:
        """Boot nodes together, and return those that came, by the numbers of their requests."""
        answered: list[int] = []
        nodes: dict[int, Node] = {}
        for request, outcome in backend.boot_many(requests):
            answered.append(request.runner_id)
            if isinstance(outcome, errors.BootError):
                is_cancelled = request.given_up is not None and request.given_up.is_set()
                check_that(is_cancelled, f"a boot failed: {outcome}")
            else:
                nodes[request.runner_id] = outcome
        check_same(sorted(answered), sorted(request.runner_id for request in requests))
        return nodes
