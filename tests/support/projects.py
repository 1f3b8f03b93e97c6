"""Projects of a user's, in folders of their own, imported as a user's program imports them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    """Files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@contextmanager
def imported(folder: Path, *names: str) -> Iterator[list[ModuleType]]:
    """Modules imported from a folder, which is on ``sys.path`` meanwhile; afterwards nothing of it is known."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            paths = [file] if file else list(getattr(sys.modules[name], "__path__", []))
            if any(Path(path).is_relative_to(folder) for path in paths):
                del sys.modules[name]
