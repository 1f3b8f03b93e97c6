"""Opens pickles that consist of values of built-in types. So no code of the user runs."""

from __future__ import annotations

from io import BytesIO

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.plain_pickle import Unpickler, UnpicklingError

if TYPE_CHECKING:
    from typing import Any, NoReturn


class PlainUnpickler(Unpickler):
    """An unpickler that finds no function and no class."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse: everything that a pickle calls is found by this method."""
        raise UnpicklingError(f"the pickle refers to {module}.{name}")


def load_plain(data: bytes) -> Any:
    """Open a pickle.

    Raises:
        UnpicklingError: it has more than values of built-in types.
    """
    return PlainUnpickler(BytesIO(data)).load()
