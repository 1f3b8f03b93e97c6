"""The user's requirements for third-party packages, read and checked before anything is sent to a runner."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

_COMMENT = re.compile(r"(^|\s)#.*$")
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+\}")
_PASSWORD = re.compile(r"//[^/\s]*@")
_REMOTE = re.compile(r"(?!file:)(?!\w+\+file:)[a-z][a-z0-9+.-]*://\S", re.IGNORECASE)
"""The beginning of an address that another machine can open, too."""
_ARCHIVES = (".whl", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_ADVICE = "send your own code with sync=[...], and name a package of an index, or an https:// or git+https:// address"
_FILES = ("-r", "--requirement", "-c", "--constraint")
_EDITABLE = ("-e", "--editable")
_FOLDERS = ("-f", "--find-links")


def read(given: Iterable[str] | str | os.PathLike[str] | None) -> list[str]:
    """Return the effective lines, without comments. Each is a requirement or an option.

    Args:
        given: lines as in a requirements file, or the path of such a file.

    Raises:
        TypeError: a line is not text.
        ValueError: a line is not a requirement, or names a file that only this machine has.
        OSError: the file cannot be read.
    """
    if given is None:
        return []
    if isinstance(given, (str, os.PathLike)):
        lines = _file(given).splitlines()
    else:
        if isinstance(given, Mapping):
            raise TypeError(f"requirements must be strings, as in a requirements file, not a {type(given).__name__}")
        lines = []
        # An environment is cached by its lines: a set must not have another order in the next process.
        for line in sorted(given, key=str) if isinstance(given, AbstractSet) else given:
            if not isinstance(line, str):
                raise TypeError(f"requirements must be strings, as in a requirements file, not {line!r}")
            lines += line.splitlines()
    wanted = [text for line in _joined(lines) if (text := _COMMENT.sub("", line).strip())]
    for line in wanted:
        _check(line)
    return wanted


def _file(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        text = f"{error.strerror}: a string is the path of a requirements file; give packages as a list, for example"
        example = "requirements=['numpy']"
        raise OSError(error.errno, f"{text} {example}", os.fspath(path)) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"the requirements file {os.fspath(path)!r} is not UTF-8 text: {error}") from None


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Join the lines that end with a backslash with their next lines, as pip does."""
    begun = ""
    for line in lines:
        if line.endswith("\\") and not _COMMENT.search(line):
            begun += line[:-1]
            continue
        yield f"{begun} {line}" if begun and _COMMENT.match(line) else begun + line
        begun = ""
    if begun:
        yield begun


def _check(line: str) -> None:
    """Raise ValueError if another machine cannot meet this requirement."""
    if line.startswith("-"):
        _check_option(line)
        return
    # The rest of the line is for the installer: hashes, settings of a build.
    text = re.split(r"\s-", line, maxsplit=1)[0].strip()
    if _REMOTE.match(text) or _VARIABLE.search(text):
        return
    name, at, address = text.partition("@")
    if at and re.fullmatch(r"[\w.-]+\s*(\[[^]]*\])?\s*", name):
        if not _REMOTE.match(address.strip()):
            raise _only_here(line)
    elif _is_path(text):
        raise _only_here(line)
    _parse(text, line)


def _check_option(line: str) -> None:
    """Check options that name files. The installer judges all others, because they change with its versions."""
    option, value = _option(line)
    if option in _EDITABLE and _REMOTE.match(value):
        raise ValueError(
            f"a requirement must not be editable, because a runner keeps no source: leave out {option}: {_shown(line)}"
        )
    if option in (*_FILES, *_EDITABLE) and not _REMOTE.match(value):
        raise _only_here(line, "give the lines of that file instead" if option in _FILES else "")
    if option in _FOLDERS and value and not value.startswith("/") and "://" not in value and not _VARIABLE.match(value):
        raise ValueError(f"--find-links must name an address, or an absolute path on the host: {_shown(line)}")


def _option(line: str) -> tuple[str, str]:
    """Split an option from its value: ``-r x``, ``-rx``, ``--requirement x`` and ``--requirement=x``."""
    option, _, value = re.sub(r"^(--[\w-]+)(\s*=\s*|\s+)", r"\1 ", line).partition(" ")
    if not option.startswith("--") and len(option) > 2:
        option, value = option[:2], f"{option[2:]} {value}"
    return option, value.strip().strip("'\"")


def _is_path(text: str) -> bool:
    before, *_ = re.split(r"[\s\[;]", text, maxsplit=1)
    return (
        text.startswith((".", "~", "file:"))
        or "/" in before
        or "\\" in before
        or before.lower().endswith(_ARCHIVES)
        or bool(re.match(r"\w+\+file:", text))
    )


def _parse(text: str, line: str) -> None:
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        # The installer on the host then reports an error. Extras that have hosts install packaging.
        return
    try:
        Requirement(text)
    except InvalidRequirement as error:
        # Do not chain the error: its text shows the line unchanged, with a password.
        why = _PASSWORD.sub("//***@", str(error).partition("\n")[0])
        raise ValueError(f"{_shown(line)} is not a requirement: {why}. Write it like 'numpy>=1.26,<3'") from None


def _only_here(line: str, advice: str = "") -> ValueError:
    what = f"a requirement must not name a file of this machine, which runners do not have: {_shown(line)}"
    return ValueError(f"{what}; {advice or _ADVICE}")


def _shown(line: str) -> str:
    """Return the line as an error shows it, without a password in an address."""
    return repr(_PASSWORD.sub("//***@", line))
