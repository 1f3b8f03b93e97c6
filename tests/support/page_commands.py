"""The command lines that pages show, and whether this project understands them.

A line may stand in a shell block, after ``$`` in a ``console`` block, in an indented block, or in backticks.
"""

from __future__ import annotations

import configparser
import io
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dragonfly_executor.cli.main import make_parser

ROOT = Path(__file__).parents[2]
BLOCKS: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "site" / "blocks.py"))
INDENTED = re.compile(r"^    (?:\$ )?((?:\.venv/bin/)?(?:dragonfly|just|pip|pytest|python3?|tox) .*)$", re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
OPERATOR = re.compile(r"[;&|()<>]+")
OWN = re.compile(r"dragonfly-executor\[([\w,-]+)\]|\.\[([\w,-]+)\]")
OPTION = re.compile(r"--[a-z][\w-]*")
COMMANDS = ("list", "sweep", "destroy", "doctor", "simulate", "status", "top", "dashboard", "replay")
MADE_BY_READERS = ("primes.py", "src/main.py", "program.py")
"""Programs that a page tells its reader to write."""


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command line of a page, without the folder of its program."""
    lines = [line for block in BLOCKS["blocks"](text) for line in _lines_of(block)]
    prose = BLOCKS["BLOCK"].sub("", text)
    lines += INDENTED.findall(prose)
    lines += [span for span in SPAN.findall(prose) if span.partition(" ")[0].rpartition("/")[2] in CHECKS]
    for line in lines:
        for words in _split(line):
            yield [words[0].rpartition("/")[2], *words[1:]]


def _lines_of(block: Any) -> list[str]:
    if block.language == "console":
        return list(BLOCKS["PROMPT"].findall(block.text))
    return block.text.splitlines() if block.language == "sh" else []


def _split(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line; a redirection's file counts as a command, which nothing checks."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if not OPERATOR.fullmatch(word):
            words.append(word)
        elif words:
            yield words
            words = []
    if words:
        yield words


def complaint(words: list[str]) -> str:
    """Return why a command line is wrong, or an empty text."""
    check = CHECKS.get(words[0])
    return check(words[1:]) if check else ""


def _dragonfly(words: list[str]) -> str:
    if len(words) < 2:  # a page speaks of the command, or of a process
        return (
            ""
            if not words or words[0] in (*COMMANDS, "slot") or words[0].startswith("--")
            else f"there is no command {words[0]}"
        )
    numbered = [re.sub(r"^(N|S|PID|SECONDS)$", "1", word) for word in words]
    told = io.StringIO()
    try:
        with redirect_stderr(told), redirect_stdout(told):
            make_parser().parse_args([word for word in numbered if word != "..."])
    except SystemExit as end:
        return told.getvalue() if end.code else ""
    return ""


def _python(words: list[str]) -> str:
    while words and words[0] in ("-P", "-I", "-q"):
        words = words[1:]
    if not words or words[0] in ("-c", "-"):
        return ""
    if words == ["-m"]:
        return ""
    if words[0] != "-m":
        return "" if words[0] in MADE_BY_READERS or (ROOT / words[0]).exists() else f"there is no file {words[0]}"
    module, arguments = words[1], words[2:]
    if module == "dragonfly_executor":
        return _dragonfly(arguments) if arguments else ""
    if module in CHECKS:
        return CHECKS[module](arguments)
    if not find_spec(module):
        return f"there is no module {module}"
    unknown = set(OPTION.findall(" ".join(arguments))) - _options_of(module) if arguments else set()
    return f"{module} has no {', '.join(unknown)}" if unknown else ""


@cache
def _options_of(module: str) -> set[str]:
    """Return the options that a module of this project has: in its help, or in the source of a runner's entrance."""
    if module == "dragonfly_executor.runner":
        return set(OPTION.findall((ROOT / "dragonfly_executor" / "runner" / "__main__.py").read_text()))
    command = [sys.executable, "-m", module, "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    return set(OPTION.findall(shown.stdout))


def _pip(words: list[str]) -> str:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    asked = {name for found in OWN.findall(" ".join(words)) for name in "".join(found).split(",")}
    return f"there is no extra {', '.join(asked - extras)}" if asked - extras else ""


def _pytest(words: list[str]) -> str:
    missing = [word for word in words if word.startswith("tests/") and not (ROOT / word.partition("::")[0]).exists()]
    return f"there is no {', '.join(missing)}" if missing else ""


def _tox(words: list[str]) -> str:
    if not words or words[0] != "-e":
        return ""
    text = (ROOT / "tox.ini").read_text()
    return "" if words[1].startswith("py3") or f"[testenv:{words[1]}]" in text else f"tox has no {words[1]}"


def _just(words: list[str]) -> str:
    if not words:
        return ""
    recipe = re.compile(rf"^{re.escape(words[0])}(?: [^:\n]*)?:", re.MULTILINE)
    return "" if recipe.search((ROOT / "justfile").read_text()) else f"just has no {words[0]}"


CHECKS: dict[str, Callable[[list[str]], str]] = {
    "dragonfly": _dragonfly, "python": _python, "python3": _python, "pip": _pip, "pytest": _pytest, "tox": _tox,
    "just": _just,
}  # fmt: skip
"""The programs whose command lines are checked."""
