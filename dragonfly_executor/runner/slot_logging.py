"""Sends the `logging` records of calls to the parent, without importing logging into the slot.

If the user's code imports logging, a handler is added to the root logger. The root logger's level follows the parent's,
from call to call. The parent's configuration decides how records are handled.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dragonfly_executor.protocol.output_window import LOG_FIELDS
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.runner.slot_progress import SAME_LEVEL
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

MAX_RECORD = 60 * 1024
"""Maximum bytes of a record, which must fit into one packet and one frame. The texts of a longer record are cut."""
LONGEST = 16 * 1024
"""Characters to which texts are cut at first."""


class LogForwarder:
    """The sender of the root logger's records to a descriptor, once logging is imported.

    Args:
        fd: the descriptor; each record is one packet.
        level: the level of the parent's root logger.
    """

    def __init__(self, fd: int, level: int) -> None:
        self._fd = fd
        self._level = level
        self._is_loaded = False
        if "logging" in sys.modules:
            self.logging_is_loaded()
        else:
            sys.meta_path.insert(0, _Watch(self))

    def follow(self, level: int) -> None:
        """Adopt the parent's level if it has changed. A level that a call has set stays until then."""
        if level not in (self._level, SAME_LEVEL):
            self._level = level
            if self._is_loaded:
                _set_level(level)

    def logging_is_loaded(self) -> None:
        """Add the handler and set the level. Called once logging is imported."""
        self._is_loaded = True
        _add_handler(self._fd)
        _set_level(self._level)


def _add_handler(fd: int) -> None:
    import logging

    formatter = logging.Formatter()

    class ForwardingHandler(logging.Handler):
        """A handler that writes each record as one packet."""

        def emit(self, record: logging.LogRecord) -> None:
            try:
                os.write(fd, _pack(record, formatter))
            except Exception:  # str() of an argument may raise anything
                self.handleError(record)

    logging.root.addHandler(ForwardingHandler())


def _set_level(level: int) -> None:
    import logging

    logging.root.setLevel(level)


def _pack(record: logging.LogRecord, formatter: logging.Formatter) -> bytes:
    values: dict[str, Any] = {name: getattr(record, name, None) for name in LOG_FIELDS}
    values["message"] = record.getMessage()
    if record.exc_info and not record.exc_text:
        values["exc_text"] = formatter.formatException(record.exc_info)
    longest = LONGEST
    while len(packed := json.dumps(values, default=str).encode()) > MAX_RECORD:
        values = {name: value[:longest] if isinstance(value, str) else value for name, value in values.items()}
        longest //= 2
    return packed


class _Watch:
    """A finder that finds no module itself, but waits for the import of logging."""

    def __init__(self, records: LogForwarder) -> None:
        self._records = records

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Delegate to the other finders. If the module is logging, add the handler once it is loaded."""
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self._records)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """A loader that loads logging by its own loader, then adds the handler."""

    def __init__(self, loader: Loader, records: LogForwarder) -> None:
        self._loader = loader
        self._records = records

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module by its own loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module by its own loader, restore its loader attributes, and add the handler."""
        self._loader.exec_module(module)
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._records.logging_is_loaded()
