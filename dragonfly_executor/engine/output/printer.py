"""Prints the output of calls: as it is, with a tag on each line, or to the user's function."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import Flag, Frame
from dragonfly_executor.protocol.handshake import UNREADABLE
from dragonfly_executor.protocol.output_window import LOG_FIELDS, LineDecoder, TextDecoder
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.util.terminal_text import escape_controls, split_at_carriage_returns

if TYPE_CHECKING:
    from typing import TextIO, TypeAlias

    Write: TypeAlias = Callable[["OutputSource", str, list[str]], None]


class OutputLine(NamedTuple):
    """A line of output of a call, or a record of `logging` from a call.

    Attributes:
        runner_id: the runner's number, as in ``stats()``.
        call_id: the call's number in the pool; 0 for output of no call: of an initializer, or of a process that
            outlived its call.
        stream: "stdout", "stderr" or "log".
        text: the line without its end; for a record, its message and the traceback of its exception.
        record: the record; None for a line.
    """

    runner_id: int
    call_id: int
    stream: str
    text: str
    record: logging.LogRecord | None = None


class OutputSource(NamedTuple):
    """The source of output: one attempt of a call in one slot of a runner."""

    runner_id: int
    slot: int
    call_id: int
    attempt: int


class Printer:
    """A printer of the output of calls. It belongs to the callback thread."""

    def __init__(self, output: str | Callable[[OutputLine], object], failed: Callable[[BaseException], None]) -> None:
        self._by_lines = output != "inherit"
        self._write: Write = lambda source, stream, texts: _print(stream, "".join(texts))
        self._function = None if isinstance(output, str) else output
        self._failed = failed
        if output == "tag":
            self._write = _print_tagged
        elif self._function is not None:
            self._write = self._tell
        self._tags = output == "tag"
        self._open: dict[tuple[int, int], dict[OutputSource, dict[str, TextDecoder | LineDecoder]]] = {}
        """Unfinished text, by runner and slot."""

    def print(self, source: OutputSource, frame: Frame) -> None:
        """Print the text that is complete with this frame."""
        if frame.flags & Flag.END:
            self._finish(source)
        elif frame.flags & Flag.LOG:
            self._log(source, bytes(frame.payload))
        else:
            stream = "stderr" if frame.flags & Flag.STDERR else "stdout"
            texts = self._texts_of(source)
            text = texts.get(stream)
            if text is None:
                text = texts[stream] = LineDecoder() if self._by_lines else TextDecoder()
            pieces = text.feed(bytes(frame.payload))
            if pieces:
                self._write(source, stream, pieces)

    def _texts_of(self, source: OutputSource) -> dict[str, TextDecoder | LineDecoder]:
        in_slot = self._open.setdefault(source[:2], {})
        texts = in_slot.get(source)
        if texts is None:
            # A slot runs one call at a time, so an unfinished line of its last call stays unfinished.
            for other in [other for other in in_slot if other.call_id and source.call_id]:
                self._finish(other)
            texts = self._open.setdefault(source[:2], {})[source] = {}
        return texts

    def end(self, runner_id: int, slot: int | None) -> None:
        """Print the unfinished text of a slot; of all slots of the runner if `slot` is None."""
        for place in [place for place in self._open if place[0] == runner_id and slot in (None, place[1])]:
            for source in list(self._open[place]):
                self._finish(source)

    def _finish(self, source: OutputSource) -> None:
        in_slot = self._open.get(source[:2], {})
        texts = in_slot.pop(source, {})
        if not in_slot:
            self._open.pop(source[:2], None)
        for stream, text in texts.items():
            pieces = text.end()
            if pieces:
                self._write(source, stream, pieces)

    def _tell(self, source: OutputSource, stream: str, lines: list[str]) -> None:
        self._call(OutputLine(source.runner_id, source.call_id, stream, line) for line in lines)

    def _call(self, lines: Any) -> None:
        first: BaseException | None = None
        for line in lines:
            try:
                if self._function is not None:
                    self._function(line)
            except BaseException as error:  # the user's code, and it may even call sys.exit()
                first = first or error
        if first is not None:
            # One report for many lines, so that a function that always raises does not flood the log.
            self._failed(first)

    def _log(self, source: OutputSource, data: bytes) -> None:
        record = _record(source, data)
        if self._function is not None:
            text = record.getMessage() + (f"\n{record.exc_text}" if record.exc_text else "")
            self._call([OutputLine(source.runner_id, source.call_id, "log", text, record)])
            return
        if self._tags:
            _escape_record(record)
        logger = _logger_of(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


def _record(source: OutputSource, data: bytes) -> logging.LogRecord:
    """Return the log record of a call, with two attributes added."""
    try:
        said: dict[str, Any] = json.loads(data)
        fields = {name: None if said[name] is None else LOG_FIELDS[name](said[name]) for name in LOG_FIELDS}
        record = logging.makeLogRecord(fields | {"name": str(said["name"]), "msg": str(said["message"])})
        time.localtime(record.created)
    except (*UNREADABLE, OSError) as error:
        raise ProtocolError(f"a log record of runner {source.runner_id} that cannot be read: {error!r}") from None
    record.dragonfly_runner = source.runner_id
    record.dragonfly_call = source.call_id
    return record


def _logger_of(name: str) -> logging.Logger:
    """Return the logger that handles records of this name here. No logger is made, because loggers live for ever."""
    known = logging.root.manager.loggerDict
    while name:
        logger = known.get(name)
        if isinstance(logger, logging.Logger):
            return logger
        name = name.rpartition(".")[0]
    return logging.root


def _escape_record(record: logging.LogRecord) -> None:
    for field, value in list(vars(record).items()):
        if isinstance(value, str):
            setattr(record, field, escape_controls(value))


def _print_tagged(source: OutputSource, stream: str, lines: list[str]) -> None:
    who = f"runner {source.runner_id}" + (f", call {source.call_id}" if source.call_id else "")
    shown = (escape_controls(piece) for line in lines for piece in split_at_carriage_returns(line))
    _print(stream, "".join(f"[{who}] {piece}\n" for piece in shown))


def _print(name: str, text: str) -> None:
    # Looked up each time, because a program may replace the streams.
    stream: TextIO | None = getattr(sys, name)
    if stream is None:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
