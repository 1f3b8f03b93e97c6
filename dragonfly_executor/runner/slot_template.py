"""The objects that all slots of a runner start with, made once in the agent: forked slots inherit them."""

from __future__ import annotations

import sys

from dragonfly_executor.protocol.frames import SETUP_HEAD
from dragonfly_executor.protocol.memory_bounds import max_inline_bytes
from dragonfly_executor.runner.code_changes import LoadedFiles
from dragonfly_executor.runner.slot_identity import SlotIdentity
from dragonfly_executor.serialization import SlotCodec
from dragonfly_executor.serialization.plain_unpickler import load_plain
from dragonfly_executor.transport.codecs import codecs_of
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.serialization.working_directory import WorkingDirectory


class SlotTemplate:
    """The objects that each slot starts with. They change nothing in the process that makes them.

    Args:
        setup: the payload of the parent's SETUP frames.
        place: where slots start if they do not see the parent's files; None if they do.
        load: opens the codec's part of the setup.

    Raises:
        Exception: the setup cannot be opened.
    """

    def __init__(
        self, setup: bytes, place: WorkingDirectory | None, load: Callable[[bytes], Any] = pickle.loads
    ) -> None:
        self.max_payload, size, self.script, codecs = SETUP_HEAD.unpack_from(setup)
        self.max_inline = max_inline_bytes(self.max_payload)
        self.codecs = codecs_of(codecs)
        self.initializer = setup[SETUP_HEAD.size + size :]
        self.codec = SlotCodec(setup[SETUP_HEAD.size : SETUP_HEAD.size + size], place, load)
        # Modules that the agent has loaded are the same in each slot, so only later imports are watched.
        self.loaded = LoadedFiles(self.codec.main) if place is None else None
        self.identity = SlotIdentity()


class SlotTemplates:
    """The template of the slots that an agent forks."""

    def __init__(self) -> None:
        self._key: tuple[bytes, WorkingDirectory | None, int] | None = None
        self._template: SlotTemplate | None = None

    def get(self, setup: bytes, place: WorkingDirectory | None) -> SlotTemplate | None:
        """Return the template for this setup, which is made again only if something has changed.

        The agent runs no code of the user. So it opens only values of built-in types.

        Returns:
            The template; None if the agent cannot make one. The slot then makes it, and reports its errors.
        """
        key = (setup, place, len(sys.modules))
        if key != self._key:
            try:
                self._template = SlotTemplate(setup, place, load_plain)
            except Exception:  # whatever is wrong, the slot raises it too
                self._template = None
            # Afterwards: the first template loads modules.
            self._key = (setup, place, len(sys.modules))
        return self._template
