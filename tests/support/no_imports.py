"""Makes every import fail, as it does when memory or descriptors are short."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Refusing:
    """A finder that stands before all others."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        raise ImportError(f"no room for {name}")


def _refuse(name: str, *args: Any, **kwargs: Any) -> Any:
    """In the place of what an import statement calls: also of a module that is loaded already."""
    caller = sys._getframe(1).f_globals.get("__name__", "")
    # pickle asks for the modules that classes and functions lie in, with a list of names.
    is_statement = not (len(args) > 2 and isinstance(args[2], list))
    if is_statement and caller.partition(".")[0] == "dragonfly_executor":
        raise ImportError(f"no room for {name}, which {caller} imports")
    return _import(name, *args, **kwargs)


_import = builtins.__import__


@contextmanager
def no_imports() -> Iterator[None]:
    """Nothing can be loaded any more, and this package cannot even name what is."""
    finder: Any = _Refusing
    sys.meta_path.insert(0, finder)
    builtins.__import__ = _refuse
    try:
        yield
    finally:
        builtins.__import__ = _import
        sys.meta_path.remove(finder)
