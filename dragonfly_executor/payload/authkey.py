"""multiprocessing's key: what its managers' proxies prove themselves with, in a call as in the parent."""

from __future__ import annotations

import sys

# Type checkers take this name for true. A runner imports this module, and has no other use for typing, which is slow.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_MODULE = "multiprocessing.process"


def own_key() -> bytes | None:
    """This process's key; None where multiprocessing is not in use, so that nothing can have been made with one."""
    process = sys.modules.get(_MODULE)
    return None if process is None else bytes(process.current_process().authkey)


def adopt(key: bytes) -> None:
    """Make the parent's key this process's own, once multiprocessing is imported: few calls need it, and it is slow."""
    process = sys.modules.get(_MODULE)
    if process is None:
        sys.meta_path.insert(0, _Adopter(key))
    else:
        process.current_process().authkey = key


class _Adopter:
    """A finder that lets the others find the module, and adopts the key when it has been executed."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path)
        spec = next(filter(None, specs), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                adopt(self._key)

            loader.exec_module = exec_module
        return spec
