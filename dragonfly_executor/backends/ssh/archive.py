"""What a host gets: this package and what it needs, as one file that is the same each time it is made."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import marshal
import sys
import zipfile
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

PACKAGES = ("dragonfly_executor", "cloudpickle", "tenacity")
"""This package with what it depends on: a runner may boot runners of its own."""
MARSHAL_VERSION = 2
UNCHECKED = (1).to_bytes(4, "little")
"""Of a .pyc (PEP 552): it belongs to a source with this hash, which is not looked at again."""
EPOCH = (1980, 1, 1, 0, 0, 0)


class Archive(NamedTuple):
    """A file, and its name.

    Attributes:
        data: a zip file that can stand on an import path.
        digest: SHA-256 of it, in hexadecimal: its name on the host.
    """

    data: bytes
    digest: str


def make_archive(*more: str) -> Archive:
    """The archive for hosts with this minor version of Python.

    It holds each module compiled, which saves most of a runner's start, and as its source, which tracebacks show and
    which another build of the same version can fall back on. It is stored without compression: it crosses the network
    once, and is read at each boot.

    Args:
        more: further packages to put in.

    Raises:
        ImportError: one of them is not here.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for package in (*PACKAGES, *more):
            for name, path in sorted(_modules_of(package)):
                source = path.read_bytes()
                _add(archive, name, source)
                _add(archive, f"{name}c", _compiled(name, path, source))
    data = buffer.getvalue()
    return Archive(data, hashlib.sha256(data).hexdigest())


def _modules_of(package: str) -> Iterator[tuple[str, Path]]:
    """Each module of a package: its path in the archive, and here."""
    found = importlib.import_module(package).__file__
    if found is None:
        raise ImportError(f"{package} has no file, so it cannot be sent to a host", name=package)
    home = Path(found).parent
    for path in home.rglob("*.py"):
        if "tests" not in path.relative_to(home).parts:
            yield f"{package}/{path.relative_to(home).as_posix()}", path


def _compiled(name: str, path: Path, source: bytes) -> bytes:
    """A .pyc, the same whichever process makes it, and wherever the package is installed."""
    code: CodeType | None
    if sys.flags.optimize:
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    else:
        # Mostly it is compiled already, which is ten times as fast.
        code = SourceFileLoader(path.stem, str(path)).get_code(path.stem)
    # Later versions of the format note which objects are shared, and that depends on what else the process holds.
    dumped = marshal.dumps(_renamed(code, name), MARSHAL_VERSION)
    return b"".join((importlib.util.MAGIC_NUMBER, UNCHECKED, importlib.util.source_hash(source), dumped))


def _renamed(code: Any, name: str) -> CodeType:
    """The code with another file's name in it, and in all functions within."""
    constants = tuple(_renamed(const, name) if isinstance(const, CodeType) else const for const in code.co_consts)
    renamed: CodeType = code.replace(co_filename=name, co_consts=constants)
    return renamed


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """The same bytes whenever and wherever it is done."""
    info = zipfile.ZipInfo(name, EPOCH)
    info.external_attr = 0o600 << 16
    archive.writestr(info, data)
