"""A slot's requests to its agent for shared objects and pieces."""

from __future__ import annotations

from dragonfly_executor.errors.base import ProtocolError
from dragonfly_executor.protocol.frames import HEADER, HEADER_SIZE, Kind, encode
from dragonfly_executor.protocol.shared_entries import ENTRIES_AT_ONCE, SharedEntry, pack_entries
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragonfly_executor.runner.agent_stream import AgentStream


class SharedRequests:
    """The requests of one slot. One thread.

    Args:
        agent: the stream to the agent.
    """

    def __init__(self, agent: AgentStream) -> None:
        self._agent = agent

    def ask(
        self, entries: Sequence[SharedEntry], call_id: int, attempt: int, flags: int = 0
    ) -> list[tuple[int, int, bytes]]:
        """Ask where contents are, and wait until the agent has them all.

        Args:
            entries: the contents.
            call_id, attempt: the call that needs them.
            flags: of the request.

        Returns:
            Of each the number, the flags of the answer and its payload: the place of the bytes, or with `Flag.ERROR`
            why there are none.
        """
        answers: list[tuple[int, int, bytes]] = []
        for start in range(0, len(entries), ENTRIES_AT_ONCE):
            asked = entries[start : start + ENTRIES_AT_ONCE]
            self._agent.send(encode(Kind.SHARED_WANT, call_id, pack_entries(asked), flags=flags, attempt=attempt))
            # All answers are read before an error is raised: the stream must stay in step.
            left = len(asked)
            while left:
                number, answer_flags, payload = self._read_answer()
                if number:
                    answers.append((number, answer_flags, payload))
                    left -= 1
                else:
                    answers += [(entry.number, answer_flags, payload) for entry in asked]
                    left = 0
        return answers

    def _read_answer(self) -> tuple[int, int, bytes]:
        header = bytearray(HEADER_SIZE)
        self._agent.receive_header(memoryview(header))
        kind, flags, _, _, number, length = HEADER.unpack(header)
        if kind != Kind.SHARED_FILE:
            raise ProtocolError(f"a frame of kind {kind} in place of the file of a shared object")
        payload = bytearray(length)
        self._agent.receive_into(memoryview(payload))
        return number, flags, bytes(payload)
