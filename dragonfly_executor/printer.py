"""What calls print as text, and what is done with it: written here, tagged, or given to a function of the user's."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from dragonfly_executor.core.output import LOG_FIELDS, Lines, Text
from dragonfly_executor.core.wire import Flag, Frame
from dragonfly_executor.stdlib_json import json

if TYPE_CHECKING:
    from typing import TextIO, TypeAlias

    Write: TypeAlias = Callable[["Source", str, list[str]], None]


class OutputLine(NamedTuple):
    """A line that a call wrote, or a record of `logging` that it made.

    Attributes:
        runner_id: the runner, as it stands in ``stats()``.
        call_id: the call, by its number in the pool; 0 for what no call wrote: an initializer, or a process that
            outlived its call.
        stream: "stdout", "stderr" or "log".
        text: the line without its end; of a record its message, and its exception's traceback.
        record: the record; None for a line.
    """

    runner_id: int
    call_id: int
    stream: str
    text: str
    record: logging.LogRecord | None = None


class Source(NamedTuple):
    """Who wrote something: one attempt of a call in one slot of a runner."""

    runner_id: int
    slot: int
    call_id: int
    attempt: int


class Printer:
    """Makes text of what calls write, and hands it on. Belongs to the callback thread."""

    def __init__(self, output: str | Callable[[OutputLine], object], failed: Callable[[BaseException], None]) -> None:
        self._by_lines = output != "inherit"
        self._write: Write = lambda source, stream, texts: _print(stream, "".join(texts))
        self._function = None if isinstance(output, str) else output
        self._failed = failed
        if output == "tag":
            self._write = _print_tagged
        elif self._function is not None:
            self._write = self._tell
        self._open: dict[Source, dict[str, Text | Lines]] = {}

    def print(self, source: Source, frame: Frame) -> None:
        """Hand on what is complete with this frame."""
        if frame.flags & Flag.END:
            self._finish(source)
        elif frame.flags & Flag.LOG:
            self._log(source, bytes(frame.payload))
        else:
            stream = "stderr" if frame.flags & Flag.STDERR else "stdout"
            texts = self._open.setdefault(source, {})
            text = texts.get(stream)
            if text is None:
                text = texts[stream] = Lines() if self._by_lines else Text()
            pieces = text.feed(bytes(frame.payload))
            if pieces:
                self._write(source, stream, pieces)

    def end(self, which: Callable[[Source], bool]) -> None:
        """Hand on what these have left unfinished."""
        for source in [source for source in self._open if which(source)]:
            self._finish(source)

    def _finish(self, source: Source) -> None:
        for stream, text in self._open.pop(source, {}).items():
            pieces = text.end()
            if pieces:
                self._write(source, stream, pieces)

    def _tell(self, source: Source, stream: str, lines: list[str]) -> None:
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
            # One complaint for many lines: a function that always raises is not to drown all else.
            self._failed(first)

    def _log(self, source: Source, data: bytes) -> None:
        record = _record(source, data)
        if self._function is not None:
            text = record.getMessage() + (f"\n{record.exc_text}" if record.exc_text else "")
            self._call([OutputLine(source.runner_id, source.call_id, "log", text, record)])
            return
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


def _record(source: Source, data: bytes) -> logging.LogRecord:
    """The record that a call has made, with two attributes more."""
    said: dict[str, Any] = json.loads(data)
    record = logging.makeLogRecord({name: said[name] for name in LOG_FIELDS} | {"msg": said["message"]})
    record.dragonfly_runner = source.runner_id
    record.dragonfly_call = source.call_id
    return record


def _print_tagged(source: Source, stream: str, lines: list[str]) -> None:
    who = f"runner {source.runner_id}" + (f", call {source.call_id}" if source.call_id else "")
    _print(stream, "".join(f"[{who}] {line}\n" for line in lines))


def _print(name: str, text: str) -> None:
    # Looked up each time: a program may exchange them.
    stream: TextIO | None = getattr(sys, name)
    if stream is None:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
