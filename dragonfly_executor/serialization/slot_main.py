"""The script's own module in a slot: imported from the script, or filled with definitions that calls bring along."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

from dragonfly_executor.serialization.main_pickler import MainView, name_in
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class SlotMain(MainView):
    """A slot's ``__main__``.

    This is a new module, so it has no names of the process that the slot was forked from. A name that comes with a call
    is assigned only if the parent's value is newer than the last one assigned. So a value that the slot's own code
    sets, for example in an initializer, is kept.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        self._description = description
        self._imported = False
        self.file: str | None = None
        """The script's file, once it is imported."""
        self._failed: BaseException | None = None
        self._given_up: str | None = None
        self._own: frozenset[str] = frozenset()  # names bound by the import
        self._given: dict[str, Any] = {}
        self._versions: dict[str, int] = {}
        self._displaced: ModuleType | None = None
        self.module = ModuleType("__main__")
        self._reset()

    @property
    def namespace(self) -> dict[str, Any]:
        """Return the module's dictionary."""
        return self.module.__dict__

    def install(self) -> None:
        """Register the module under the names that ``import __main__`` and pickles look up."""
        # Keeps a reference to the old module: its code may still run, and needs its globals.
        self._displaced = sys.modules.get("__main__")
        sys.modules["__main__"] = sys.modules["__mp_main__"] = self.module

    def ensure_imported(self) -> None:
        """Import the script, once. If the script raises, the exception propagates, and the next call tries again.

        Raises:
            TimeoutError: the import was given up.
        """
        if self._imported:
            return
        if self._given_up is not None:
            raise TimeoutError(self._given_up)
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        self._import()

    def import_ahead(self) -> None:
        """Import the script before a call needs it. The first call that needs the script raises any exception."""
        try:
            self._import()
        except BaseException as exc:  # the script's own code runs here, and may even exit
            self._failed = exc

    def give_up(self, reason: str) -> None:
        """Make `ensure_imported` fail with this reason, instead of importing the script."""
        self._given_up = reason

    def _import(self) -> None:
        kept = {name: self.namespace[name] for name in self._versions if name in self.namespace}
        self.namespace.clear()
        self._reset()
        # Not "__main__": the block under the script's guard must not run here.
        self.module.__name__ = "__mp_main__"
        code = self._load_code()
        try:
            exec(code, self.namespace)  # noqa: S102  # importing a script means executing it
        except BaseException:
            self.namespace.clear()
            self._reset()
            self.namespace.update(kept)
            raise
        self._own = frozenset(self.namespace)
        self.namespace.update(kept)
        self._imported = True
        self.file = self._description["path"]

    def apply(self, definitions: memoryview, large: list[Any], loads: Callable[[bytes], dict[str, Any]]) -> None:
        """Assign the definitions that are newer than the slot's.

        Args:
            definitions: the pickled list of (names, version, bytes).
            large: its out-of-band buffers.
            loads: opens the bytes of one definition.
        """
        for names, version, data in pickle.loads(definitions, buffers=large):
            fresh = [name for name in names if version > self._versions.get(name, 0)]
            if not fresh:
                continue
            values = loads(data)
            for name in fresh:
                # A name that is bound, but not by a definition, was set by the slot's own code: keep its value.
                if name in self._versions or name not in self.namespace:
                    self.namespace[name] = self._given[name] = values[name]
                self._versions[name] = version

    def name_of(self, found: Any) -> str | None:
        """Return the name under which the parent has this object too, or None."""
        name = name_in(self.namespace, found)
        if name is None:
            return None
        root = name.partition(".")[0]
        known = root in self._own or (root in self._given and self._given[root] is self.namespace[root])
        return name if known else None

    def _reset(self) -> None:
        path, package = self._description["path"], self._description["package"]
        # Names that every module has of its own, and that calls never bring.
        own = {"__name__": "__main__", "__package__": package, "__builtins__": __builtins__, "__file__": path}
        self.namespace.update(own, __doc__=None, __loader__=None, __spec__=None)
        if path is None:
            del self.namespace["__file__"]
        if self._description["name"] is not None:
            # No loader yet. A pool inside a call reads the script's name and file from this spec.
            self.module.__spec__ = ModuleSpec(self._description["name"], None, origin=path)

    def _load_code(self) -> CodeType:
        name = self._description["name"]
        if name is None:
            path = self._description["path"]
            with open(path, "rb") as file:
                return compile(file.read(), path, "exec", dont_inherit=True)
        if self._description["entry"] is not None:
            from importlib.machinery import PathFinder

            spec = PathFinder.find_spec(name, [self._description["entry"]])
        else:
            from importlib.util import find_spec

            spec = find_spec(name)
        if spec is None or spec.loader is None:
            raise ImportError(f"the program's main module {name!r} cannot be found on the runner", name=name)
        self.module.__spec__, self.module.__loader__ = spec, spec.loader
        code: CodeType = spec.loader.get_code(spec.name)  # type: ignore[attr-defined]
        return code
