"""`ByReference`: whether calls of a function need only its name and atoms, and the encoder of such calls."""

from __future__ import annotations

from dragonfly_executor.serialization.function_reference import FunctionReference
from dragonfly_executor.serialization.main_pickler import importable
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from dragonfly_executor.serialization.import_environment import ImportEnvironment
    from dragonfly_executor.serialization.parent_main import ParentMain


class ByReference:
    """The encoder of calls of the function that was called several times in a row lately. Any thread.

    Args:
        environment: knows the modules that slots find.
        main: the parent's ``__main__``.
    """

    def __init__(self, environment: ImportEnvironment, main: ParentMain) -> None:
        self._environment = environment
        self._main = main
        self._latest: Callable[..., Any] | None = None
        self.reference: FunctionReference | None = None
        """The reference to that function."""

    def note(self, fn: Callable[..., Any]) -> None:
        """Keep the reference to a function that is called twice in a row."""
        if fn is not self._latest:
            self._latest = fn
        elif self.reference is None or self.reference.fn is not fn:
            self.reference = FunctionReference(fn)

    def encode(
        self, reference: FunctionReference, args: tuple[Any, ...], kwargs: Mapping[str, Any], retry_on: tuple[Any, ...]
    ) -> bytes | None:
        """Encode another call of a function. Return None if that needs more than the function's name and atoms."""
        if retry_on or not self.is_enough(reference) or not reference.is_current():
            return None
        return reference.encode(args, kwargs)

    def is_enough(self, reference: FunctionReference) -> bool:
        """Return True if plain pickle is enough for calls of this function whose arguments refer to nothing.

        Raises:
            CallSerializationError: a global of the script that the function uses cannot be pickled.
        """
        environment = self._environment
        environment.refresh()
        if len(environment.marks) != 1 or environment.path:
            return False
        if reference.roots:
            # A function of `__main__`: slots must import the script, and no global that it uses may travel with it.
            main = self._main
            if main.script is None or main.definitions(reference.roots)[0]:
                return False
            main.needs_script = True
        elif reference.home not in environment.importable:
            if not importable(reference.home):
                return False
            environment.importable.add(reference.home)
        return True
