"""The code blocks of a page, and which of them a test runs.

A comment before a block says what a reader does not see::

    <!-- not run: needs a cluster -->      the block is only compiled
    <!-- run before: work = pow -->        these lines make what the block takes from the reader's program

A ``console`` block shows commands after ``$``, and what they print.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(
    r"(?:<!--\s*(not run|run before):((?:(?!-->).)*?)-->\n+)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
GUARD = 'if __name__ == "__main__":'
PROMPT = re.compile(r"^\$ (.*)$", re.MULTILINE)
HEADING = re.compile(r"^## (.*)$", re.MULTILINE)


class Block(NamedTuple):
    """A code block: its language, its text, the reason why no test runs it, and lines that run before it."""

    language: str
    text: str
    not_run: str
    before: str


def blocks(text: str) -> Iterator[Block]:
    """Yield the code blocks of a page."""
    for mark, said, language, code in BLOCK.findall(text):
        reason, before = (said.strip(), "") if mark == "not run" else ("", said.strip() + "\n" * bool(said))
        yield Block(language, code, reason, before)


def programs(text: str) -> Iterator[str]:
    """Yield the programs of a page: all its Python blocks together, and each block with a ``__main__`` guard alone.

    A program without a guard beside it must not be imported, as runners import a script with a guard.
    """
    runnable = [block for block in blocks(text) if block.language == "python" and not block.not_run]
    together = [block.before + block.text for block in runnable if GUARD not in block.text]
    if together:
        yield "\n\n".join(together)
    yield from (block.before + block.text for block in runnable if GUARD in block.text)


def shell_programs(text: str) -> Iterator[str]:
    """Yield the programs of a page's shell blocks, each for itself: of a ``console`` block, the lines after ``$``."""
    for block in blocks(text):
        if block.language == "sh" and not block.not_run:
            yield block.before + block.text
        elif block.language == "console" and not block.not_run:
            yield block.before + "".join(f"{line}\n" for line in PROMPT.findall(block.text))


def examples(path: Path) -> dict[str, str]:
    """Return the Python blocks under each heading of a page."""
    parts = HEADING.split(path.read_text())
    return {
        heading: "\n\n".join(block.text for block in blocks(part) if block.language == "python")
        for heading, part in zip(parts[1::2], parts[2::2], strict=True)
    }
