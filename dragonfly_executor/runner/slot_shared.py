"""The slot's access to shared objects. It loads the table of shared objects only when a call uses one."""

from __future__ import annotations

from dragonfly_executor.errors.base import UnopenedCallError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragonfly_executor.runner.agent_stream import AgentStream
    from dragonfly_executor.runner.shared_table import SharedTable
    from dragonfly_executor.serialization import SlotCodec
    from dragonfly_executor.serialization.layout import Received


class SlotShared:
    """The shared objects of one slot.

    Args:
        agent: the stream to the agent.
        codec: opens the objects.
    """

    def __init__(self, agent: AgentStream, codec: SlotCodec) -> None:
        self._agent = agent
        self._codec = codec
        self._table: SharedTable | None = None

    def fetch(self, data: Received, call_id: int, attempt: int) -> UnopenedCallError | None:
        """Get the bytes of all objects that a call needs. Runs none of the user's code.

        Args:
            data: the payload of the call.
            call_id, attempt: the call.

        Returns:
            The error that the call fails with; None if all objects are here.
        """
        from dragonfly_executor.serialization.layout import shared_table

        if self._table is None:
            from dragonfly_executor.runner.shared_table import SharedTable

            self._table = SharedTable(self._agent, self._codec.open_shared)
            self._codec.shared = self._table.load
        try:
            self._table.fetch(shared_table(data), call_id, attempt)
        except UnopenedCallError as error:
            return error
        except (MemoryError, ValueError) as error:
            return UnopenedCallError(f"the shared objects of the call are not here: {type(error).__name__}: {error}")
        return None

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop these objects: no handle of them is left."""
        if self._table is not None:
            self._table.forget(numbers)
