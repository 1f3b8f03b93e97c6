"""The slot's end of the stream to its agent: frames of several threads arrive whole."""

from __future__ import annotations

import threading
from collections import Counter

from dragonfly_executor.protocol.frames import Decoder, Kind, encode
from dragonfly_executor.runner.agent_stream import AgentStream
from dragonfly_executor.transport.sockets import socketpair
from tests.support.helpers import PATIENCE

THREADS = 4
FRAMES = 50
LENGTH = 200_000
"""Bytes: more than the kernel takes at once, so each send is in many pieces."""


def test_frames_of_several_threads_arrive_whole() -> None:
    slot, agent = socketpair()
    with slot, agent:
        stream = AgentStream(slot)

        def send(number: int) -> None:
            payload = bytes([number]) * LENGTH
            frame = encode(Kind.CHUNK, number, payload)
            for _ in range(FRAMES):
                stream.send_chunk(frame[:24], frame[24:])

        threads = [threading.Thread(target=send, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        decoder, found = Decoder(), Counter[int]()
        while found.total() < THREADS * FRAMES:
            for frame in decoder.feed(agent.recv(1 << 16)):
                assert frame.payload == bytes([frame.call_id]) * LENGTH
                found[frame.call_id] += 1
        for thread in threads:
            thread.join(PATIENCE)
        assert set(found.values()) == {FRAMES}
