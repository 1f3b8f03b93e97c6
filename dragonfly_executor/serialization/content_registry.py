"""`ContentRegistry`: the contents that runners get once, by number, and which of them are gone."""

from __future__ import annotations

import weakref
from collections import deque
from functools import partial
from itertools import count

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.serialization.shared_object import SharedContent

    Reference = weakref.ref[SharedContent]


class ContentRegistry:
    """The contents of one pool. Any thread may use it, except where a method says otherwise.

    It holds them by weak references: handles and payloads keep them. No method takes a lock, because a content may be
    freed, and a Ctrl-C may come, at any point.
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        self._references: dict[int, tuple[Reference, Reference]] = {}
        self._freed: deque[int] = deque()
        self._wake: Callable[[], object] = lambda: None

    def next_number(self) -> int:
        """Return the number of a new content."""
        return next(self._numbers)

    def add(self, content: SharedContent) -> None:
        """Register a content under the number in its entry."""
        number = content.entry.number
        # Two, because a Ctrl-C during the callback of one of them loses it.
        on_freed = partial(self._on_freed, number)
        self._references[number] = weakref.ref(content, on_freed), weakref.ref(content, on_freed)

    def result_of(self, number: int) -> tuple[int, int] | None:
        """Return the call, and its attempt, whose unopened result a content is; None if it is none, or gone."""
        references = self._references.get(number)
        content = None if references is None else references[0]()
        return None if content is None else content.result_of

    def find(self, number: int) -> memoryview | None:
        """Return the bytes of a content; None if it is gone."""
        references = self._references.get(number)
        content = None if references is None else references[0]()
        if content is None or content.memory is None:
            return None
        try:
            return content.memory.view()
        except ValueError:
            return None

    def on_freed(self, wake: Callable[[], object]) -> None:
        """Call `wake` from now on when a content was freed: from any thread, and at any point of its program."""
        self._wake = wake

    def take_freed(self) -> list[int]:
        """Return the numbers of the contents that were freed since the last time."""
        freed: list[int] = []
        while self._freed:
            freed.append(self._freed.popleft())
        return freed

    def _on_freed(self, number: int, reference: Reference) -> None:
        if number in self._references:
            self._freed.append(number)
            self._references.pop(number, None)
        if self._freed:
            self._wake()

    def close(self) -> None:
        """Free the bytes of all contents, because no runner is left, or in a forked child of the process."""
        self._wake = lambda: None
        for references in list(self._references.values()):
            content = references[0]()
            if content is not None and content.memory is not None:
                content.memory.close()
