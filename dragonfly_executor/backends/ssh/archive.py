"""The archive for hosts: this package and its dependencies in one zip file, with the same bytes each time."""

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
"""This package and its dependencies, as a runner may boot runners of its own."""
MARSHAL_VERSION = 2
UNCHECKED = (1).to_bytes(4, "little")
"""Flags of a .pyc file (PEP 552): it is valid for a source with this hash, and Python does not check that again."""
EPOCH = (1980, 1, 1, 0, 0, 0)


class Archive(NamedTuple):
    """A zip file and its digest.

    Attributes:
        data: the zip file, which can stand on an import path.
        digest: its SHA-256 in hexadecimal, which is its name on the host.
    """

    data: bytes
    digest: str


def make_archive(*more: str) -> Archive:
    """Make the archive for hosts with this minor version of Python.

    Each module is in it twice. The compiled module saves most of a runner's start. The source is for tracebacks, and
    for another build of the same version, which may not accept the compiled module. The zip file is not compressed, as
    it crosses the network once and is read at each boot.

    Args:
        more: names of further packages for the archive.

    Raises:
        ImportError: one of the packages is not installed.
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
    """Yield each module of a package: its path in the archive, and its path here."""
    found = importlib.import_module(package).__file__
    if found is None:
        raise ImportError(f"{package} has no file, so it cannot be sent to a host", name=package)
    home = Path(found).parent
    for path in home.rglob("*.py"):
        if "tests" not in path.relative_to(home).parts:
            yield f"{package}/{path.relative_to(home).as_posix()}", path


def _compiled(name: str, path: Path, source: bytes) -> bytes:
    """Return a .pyc file with the same bytes, whichever process compiles it, and wherever the package is installed."""
    code: CodeType | None
    if sys.flags.optimize:
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    else:
        # Usually a .pyc file exists already. Reading it is ten times as fast as compiling.
        code = SourceFileLoader(path.stem, str(path)).get_code(path.stem)
    # Later format versions mark shared objects, and which objects are shared depends on the rest of the process.
    dumped = marshal.dumps(_renamed(code, name), MARSHAL_VERSION)
    return b"".join((importlib.util.MAGIC_NUMBER, UNCHECKED, importlib.util.source_hash(source), dumped))


def _renamed(code: Any, name: str) -> CodeType:
    """Return the code object with another file name, also in all nested code objects."""
    constants = tuple(_renamed(const, name) if isinstance(const, CodeType) else const for const in code.co_consts)
    renamed: CodeType = code.replace(co_filename=name, co_consts=constants)
    return renamed


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a file. Time and mode are fixed, so that the bytes are always the same."""
    info = zipfile.ZipInfo(name, EPOCH)
    info.external_attr = 0o600 << 16
    archive.writestr(info, data)
