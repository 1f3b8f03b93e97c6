"""Runs a function once a module is imported, without importing the module for it."""

from __future__ import annotations

import sys

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


def when_imported(name: str, action: Callable[[Any], None]) -> None:
    """Call `action` with the module once it has been executed; at once if it is imported already."""
    PostImportHooks({name: action}).install()


class PostImportHooks:
    """Actions for modules that may be imported later.

    Args:
        actions: by the name of a module, what is called with it.
    """

    def __init__(self, actions: Mapping[str, Callable[[Any], None]]) -> None:
        self._actions = actions
        self._finders = {name: _Finder(name, action) for name, action in actions.items()}

    def install(self) -> None:
        """Call each action once its module has been executed; at once if it is imported already."""
        modules = sys.modules
        sys.meta_path[:0] = [finder for name, finder in self._finders.items() if name not in modules]
        for name, action in self._actions.items():
            if name in modules:
                action(modules[name])

    def uninstall(self) -> None:
        """Call no action that was not called yet."""
        for finder in self._finders.values():
            if finder in sys.meta_path:
                sys.meta_path.remove(finder)


class _Finder:
    """A finder that delegates to the other finders, and calls the action once the module has been executed."""

    def __init__(self, name: str, action: Callable[[Any], None]) -> None:
        self._name = name
        self._action = action

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find the module by the other finders, and have its loader call the action after the execution."""
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        specs = (finder.find_spec(name, path, target) for finder in list(sys.meta_path))
        spec = next(filter(None, specs), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self._action(module)

            loader.exec_module = exec_module
        return spec
