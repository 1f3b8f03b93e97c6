"""`MethodChannel`: a worker's slot gives shared memory back while no method is called."""

from __future__ import annotations

from typing import Any

import pytest

from dragonfly_executor.protocol.frames import Frame, Kind
from dragonfly_executor.protocol.placed_messages import ParentSays
from dragonfly_executor.runner import method_channel
from dragonfly_executor.runner.method_channel import MethodChannel, SlotParts


class SilentClient:
    """Sends nothing, and keeps the callback for the parent's messages."""

    on_frame: Any = None

    def tell(self, *_: Any) -> None:
        """See `ObjectClient`."""

    def listen(self, on_frame: Any) -> int:
        """See `ObjectClient`."""
        self.on_frame = on_frame
        return 1

    def stop_listening(self, token: int) -> None:
        """See `ObjectClient`."""


class StoppingPayloads:
    """Counts the times that memory is given back. The parent stops the worker at the first one."""

    share_memory = True
    trimmed = 0

    def __init__(self, client: SilentClient) -> None:
        self._client = client

    def trim(self) -> None:
        """See `SlotPayloads`."""
        self.trimmed += 1
        self._client.on_frame(Frame(Kind.OBJECT_REPLY, 0, ParentSays.STOP, 0, 1, b""))


@pytest.mark.timeout(30)
def test_a_slot_without_calls_gives_shared_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_channel, "MEMORY_IDLE", 0.01)
    client: Any = SilentClient()
    unused: Any = None
    payloads: Any = StoppingPayloads(client)
    channel = MethodChannel(client, 1, SlotParts(unused, payloads, unused, 1 << 20, (1, 1)))
    channel.open()
    assert channel.take() is None
    assert payloads.trimmed == 1
    channel.close()
