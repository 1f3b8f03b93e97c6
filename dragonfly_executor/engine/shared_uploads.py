"""Sends shared objects over one link, some chunks at a time, when the runner asks for them."""

from __future__ import annotations

from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER, MAX_DETAIL, Flag, Kind, encode
from dragonfly_executor.protocol.shared_entries import pack_numbers
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.engine.shared_contents import SharedContents
    from dragonfly_executor.transport.link import Link


class SharedUploads:
    """The shared objects on their way to one runner. It belongs to the engine thread.

    Args:
        contents: the pool's shared objects.
    """

    def __init__(self, contents: SharedContents) -> None:
        self._contents = contents
        self._link: Link | None = None
        self._places: dict[int, int] = {}
        """The next chunk of each object that is being sent."""

    def attach(self, link: Link) -> None:
        """Send over this link from now on."""
        self._link = link

    def send(self, number: int, chunks: int, *, from_start: bool) -> None:
        """Send the next chunks of an object.

        Args:
            number: the object.
            chunks: the number of chunks.
            from_start: whether the runner begins to receive it, and does not go on.
        """
        if self._link is None:
            return
        data = self._contents.find(number)
        if data is None:
            self._places.pop(number, None)
            self._link.reply(encode(Kind.SHARED_FORGET, payload=pack_numbers((number,))))
            return
        first = 0 if from_start else self._places.get(number)
        if first is None:
            return  # the runner has the whole object
        last = (len(data) - 1) // CHUNK_SIZE
        for place in range(first, min(first + chunks, last + 1)):
            piece = data[place * CHUNK_SIZE : (place + 1) * CHUNK_SIZE]
            flags = Flag.MORE if place < last else 0
            header = HEADER.pack(Kind.SHARED_DATA, flags, 0, place & MAX_DETAIL, number, len(piece))
            self._link.send_bulk(header, piece)
        if first + chunks > last:
            self._places.pop(number, None)
        else:
            self._places[number] = first + chunks
