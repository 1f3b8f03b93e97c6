"""Streams of nodes that a test boots without a pool."""

from __future__ import annotations

from typing import Self

from dragonfly_executor.backends.base import Backend, BootRequest, Node, Stream
from dragonfly_executor.protocol.frames import Decoder, Frame
from dragonfly_executor.protocol.parent import Parent


class NodeStreams:
    """Access to the streams of a backend's nodes, for backends whose nodes have streams."""

    def __init__(self, backend: Backend, timeout: float) -> None:
        self._backend = backend
        self._timeout = timeout

    def request(self, number: int) -> BootRequest:
        """Return the request with which to boot this runner."""
        return BootRequest(number, Parent.new("contract", number, self._backend.name), self._timeout)

    def forget(self, number: int) -> None:
        """Stop expecting this runner."""

    def stream(self, node: Node, number: int) -> Stream:
        """Return the stream of a runner."""
        if node.stream is None:
            raise AssertionError("the node has no stream, and the backend does not say that its runners dial back")
        return node.stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing was opened."""


class DialedStreams(NodeStreams):
    """Access to the streams of runners that dial back."""

    def __init__(self, backend: Backend, timeout: float) -> None:
        # This import loads ssl, which no other backend needs.
        from dragonfly_executor.testing.dialback_server import DialBackServer

        super().__init__(backend, timeout)
        self._reception = DialBackServer(backend, timeout)
        self._streams: list[Stream] = []

    def request(self, number: int) -> BootRequest:
        """See `NodeStreams`."""
        return self._reception.request(number)

    def forget(self, number: int) -> None:
        """See `NodeStreams`."""
        self._reception.forget(number)

    def stream(self, node: Node, number: int) -> Stream:
        """See `NodeStreams`. Other runners may have dialed in before, and are skipped."""
        if node.stream is not None:
            raise AssertionError("the node has a stream, and the backend says that its runners dial back")
        while self._reception.joined.get(timeout=self._timeout) != number:
            continue
        stream = self._reception.take(number)
        if stream is None:
            raise AssertionError("the runner has left")
        stream.settimeout(self._timeout)
        self._streams.append(stream)
        return stream

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.close()
        self._reception.close()


def first_frame(stream: Stream) -> Frame:
    """Return the first frame of the runner, in however many pieces it arrives."""
    decoder = Decoder(one_by_one=True)
    while data := stream.recv(4096):
        if frames := decoder.feed(data):
            return frames[0]
    raise AssertionError("the stream ended before the runner had said anything")
