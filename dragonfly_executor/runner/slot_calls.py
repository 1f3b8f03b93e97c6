"""The way of calls to a slot: packets, and a pipe of claims that decides who has a call.

A call that is handed to a slot without calls is a packet of its own. The agent keeps the slot's reading end, and takes
the call back by receiving the packet. The kernel gives the packet to one side only.

All other calls have a number, and several of them may be in one packet. The agent writes the numbers into a pipe, and
then sends the packet. The slot reads one number for each of these calls, before it begins the call. The agent takes
calls back by reading the numbers that the slot has not read. Here too, the kernel gives each number to one side only.
So a call whose number the agent has read provably never starts, and the slot passes over its bytes.

Numbers are never used again. So a number whose packet could not be sent, and which stays in the pipe, is recognized.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

from dragonfly_executor.protocol.frames import (
    CALL_OPTIONS,
    HEADER,
    HEADER_SIZE,
    MAX_INLINE,
    TOTAL,
    Kind,
)
from dragonfly_executor.transport.sockets import MSG_DONTWAIT, PACKETS, Socket, socketpair
from dragonfly_executor.util.descriptors import move_up
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragonfly_executor.core.slot_records import Ref, SlotCall

CLAIM = struct.Struct("=Q")
"""A call's number: in the pipe, and at the end of a packet the number of the first call there."""
PACKET_SIZE = HEADER_SIZE + CALL_OPTIONS.size + MAX_INLINE + TOTAL.size + CLAIM.size
"""Size of the longest packet in bytes."""
SHARED_SIZE = 16 * 1024
"""Bytes of a packet up to which it may have several calls."""
SHARED_FORGET = int(Kind.SHARED_FORGET)
CLAIMS_AT_ONCE = 512
"""Numbers that fit into one write to a pipe which is never split (PIPE_BUF)."""
NONE_LEFT = 2**64
"""Larger than each number."""


class SlotQueue:
    """The queue of one slot: a pair of packet sockets, and the pipe of claims. Made by the agent, before the fork.

    Raises:
        OSError: there is no descriptor left.
    """

    def __init__(self) -> None:
        self.sender, self.receiver = socketpair(PACKETS)
        try:
            self.claims, self.new_claims = os.pipe()
        except BaseException:
            self.sender.close()
            self.receiver.close()
            raise
        os.set_blocking(self.claims, False)
        os.set_blocking(self.new_claims, False)

    def descriptors(self) -> list[int]:
        """Return all descriptors."""
        return [self.sender.fileno(), self.receiver.fileno(), self.claims, self.new_claims]

    def close(self) -> None:
        """Close both sides."""
        self.sender.close()
        self.receiver.close()
        os.close(self.claims)
        os.close(self.new_claims)


class CallSender:
    """The agent's side of a slot's queue."""

    def __init__(self, queue: SlotQueue) -> None:
        self._sender: Socket = queue.sender
        self._receiver: Socket = queue.receiver
        self._claims, self._new_claims = queue.claims, queue.new_claims
        self._next = 1
        self._notices: list[bytes] = []
        """Packets for which the queue had no room."""
        self._may_have_rest = False
        """True if the slot may have a packet of which calls were taken back.

        To find that out, it may read a claim of a later packet. A packet that is its own claim must not come in
        between: the call of the claim is stuck behind it.
        """

    def hand(self, calls: Sequence[SlotCall], *, is_idle: bool) -> int:
        """Put calls into the slot's queue. Return how many: none after the first for which there is no room.

        Args:
            calls: the calls.
            is_idle: whether the slot has answered all other calls that it was given, and that were not taken back.
        """
        if is_idle and len(calls) == 1 and not self._may_have_rest:
            return int(self._send_alone(calls[0]))
        handed = 0
        while handed < len(calls):
            end, size = handed, 0
            while end < len(calls) and end - handed < CLAIMS_AT_ONCE:
                size += len(calls[end].packet)
                if size > SHARED_SIZE and end > handed:
                    break
                end += 1
            if not self._send(calls[handed:end]):
                break
            handed = end
        return handed

    def _send_alone(self, call: SlotCall) -> bool:
        """Send a call as a packet that is its own claim. Return False if the queue is full or the slot is dying."""
        call.claim = 0
        try:
            self._sender.send(call.packet, MSG_DONTWAIT)
        except OSError:
            # If the slot is dying, the end of its process is reported separately.
            return False
        return True

    def _send(self, calls: Sequence[SlotCall]) -> bool:
        """Send calls in one packet. Return False if the queue is full or the slot is dying."""
        number = self._next
        claims = [CLAIM.pack(place) for place in range(number, number + len(calls))]
        packets = [call.packet for call in calls]
        packets.append(claims[0])
        for call in calls:
            call.claim = number
            number += 1
        self._next = number
        try:
            # Before the packet, because a slot that finds no number passes over the call.
            os.write(self._new_claims, b"".join(claims))
            self._sender.send(b"".join(packets), MSG_DONTWAIT)
        except OSError:
            return False
        # Once this call is answered, the slot has left that packet. Before that, it is not idle.
        self._may_have_rest = False
        return True

    def notify(self, packet: bytes) -> None:
        """Put a packet that is no call into the slot's queue. If the queue is full, it follows a later packet."""
        self._notices.append(packet)
        try:
            while self._notices:
                self._sender.send(self._notices[0], MSG_DONTWAIT)
                del self._notices[0]
        except OSError:
            return

    def take_back(self, calls: Iterable[SlotCall]) -> set[Ref]:
        """Take back the calls that the slot has not claimed.

        Args:
            calls: the calls that the slot has not answered, in order.

        Returns:
            Their ids and attempts. These calls have provably never started.
        """
        numbers: set[int] = set()
        try:
            while claims := os.read(self._claims, CLAIM.size * CLAIMS_AT_ONCE):
                numbers.update(number for (number,) in CLAIM.iter_unpack(claims))
        except BlockingIOError:
            pass  # the pipe is empty
        first = next(iter(calls), None)
        alone = None
        if first is not None and not first.claim and self._receive_again(numbers):
            alone = first
        if numbers:
            self._may_have_rest = True
        return {call.ref for call in calls if call.claim in numbers or call is alone}

    def _receive_again(self, numbers: set[int]) -> bool:
        """Take the packet that was sent alone, of the first call that is not answered, out of the queue.

        Args:
            numbers: gets the numbers of calls that are in other packets which are taken out.

        Returns:
            False if the slot has received the packet.
        """
        notices: list[bytes] = []
        is_found = False
        try:
            while not is_found and (packet := self._receiver.recv(PACKET_SIZE, MSG_DONTWAIT)):
                kind, _, _, _, _, length = HEADER.unpack_from(packet)
                if kind == SHARED_FORGET:
                    notices.append(packet)
                elif HEADER_SIZE + length == len(packet):
                    is_found = True
                else:
                    # The slot may have the first of these numbers, but it never gets the packet.
                    numbers.update(_numbers(packet))
        except (BlockingIOError, InterruptedError):
            pass  # the queue is empty
        for packet in notices:
            self.notify(packet)
        return is_found

    def retire(self) -> None:
        """Send no more calls. The slot ends when it has finished its calls."""
        self._sender.close()

    def descriptors(self) -> list[int]:
        """Return the descriptors that another slot must not inherit."""
        return [self._sender.fileno(), self._receiver.fileno(), self._claims, self._new_claims]

    def close(self) -> None:
        """Close the descriptors. A second call does nothing."""
        self._sender.close()
        self._receiver.close()
        if self._claims >= 0:
            os.close(self._claims)
            os.close(self._new_claims)
            self._claims = self._new_claims = -1


def _numbers(packet: bytes) -> Iterator[int]:
    """Yield the number of each call in a packet."""
    start, stop = 0, len(packet) - CLAIM.size
    (number,) = CLAIM.unpack_from(packet, stop)
    while start < stop:
        yield number
        number += 1
        start += HEADER_SIZE + HEADER.unpack_from(packet, start)[5]


class CallReceiver:
    """The slot's side of its queue.

    Attributes:
        packet: the packet that was received last.
        sock: the socket of the packets.
    """

    def __init__(self, queue: SlotQueue) -> None:
        queue.sender.close()
        os.close(queue.new_claims)
        # A call may close descriptors that are not its own, and open files, which get the lowest free numbers.
        self._claims = move_up(queue.claims)
        self.sock: Socket = queue.receiver
        self.packet = memoryview(bytearray(PACKET_SIZE))
        self._claimed = 0
        """A number that was read, and whose packet has yet to be received; 0 for none."""

    def calls(self) -> Iterator[tuple[int, int]]:
        """Yield where in `packet` the next frame begins and ends: a call that is claimed now, or a notice.

        Ends if the agent has retired the slot.

        Raises:
            BlockingIOError: no packet came for as long as the socket's timeout allows.
            OSError: a call has closed a descriptor.
        """
        packet, receive, unpack = self.packet, self.sock.recv_into, HEADER.unpack_from
        while size := receive(packet):
            start, stop = 0, HEADER_SIZE + unpack(packet)[5]
            if stop == size:
                yield 0, size  # the packet is the claim
                continue
            stop = size - CLAIM.size
            (number,) = CLAIM.unpack_from(packet, stop)
            while start < stop:
                found = self._claimed or self._read_claim()
                while found < number:
                    # Its packet could not be sent, or is void.
                    found = self._read_claim()
                if found > number:
                    # The agent has taken back the rest of this packet.
                    self._claimed = found if found < NONE_LEFT else 0
                    break
                self._claimed = 0
                end = start + HEADER_SIZE + unpack(packet, start)[5]
                yield start, end
                start = end
                number += 1

    def _read_claim(self) -> int:
        """Return the next number; `NONE_LEFT` if there is none."""
        try:
            number: int = CLAIM.unpack(os.read(self._claims, CLAIM.size))[0]
        except (BlockingIOError, struct.error):
            return NONE_LEFT  # if the pipe has ended, the agent is gone, and no packet comes either
        return number
