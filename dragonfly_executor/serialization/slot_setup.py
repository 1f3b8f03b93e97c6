"""The setup of a slot, as the parent writes it: import path, directory, arguments, script and serializer."""

from __future__ import annotations

import os
import sys

from dragonfly_executor.protocol.stdlib_json import is_stdlib
from dragonfly_executor.serialization.authkey import own_key
from dragonfly_executor.serialization.import_environment import directory, path_from
from dragonfly_executor.serialization.program_settings import settings
from dragonfly_executor.serialization.rebuild import main_module
from dragonfly_executor.serialization.script import describe
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.serialization.import_environment import ImportEnvironment


def here(environment: ImportEnvironment, serializer: dict[str, Any]) -> bytes:
    """Return the setup of a slot on this machine.

    Args:
        environment: it records the import path that the slot gets.
        serializer: the serializer's name, or its pickled object.
    """
    cwd = directory()
    path = path_from(cwd)
    environment.told(path)
    place = {"path": path, "cwd": cwd, "authkey": own_key(), "main": describe(main_module())}
    return _described(place, serializer, _arguments())


def elsewhere(
    environment: ImportEnvironment,
    serializer: dict[str, Any],
    main: dict[str, Any],
    same_image: bool,
    same_directory: bool,
) -> bytes:
    """Return the setup of a slot that does not see this machine's files.

    It contains no path of this machine, unless the slot's machine runs the same image. It does not contain
    multiprocessing's key either: that key is for listeners and processes of this machine.

    Args:
        environment, serializer: as for `here`.
        main: the script, as `script.describe` returns it, with its files where the runner has them.
        same_image: whether the slot's machine runs the image that this program runs in.
        same_directory: whether calls there run in this program's directory.
    """
    first, *rest = _arguments() or [""]
    cwd = directory() if same_image else ""
    path = path_from(cwd) if same_image else []
    if same_image:
        environment.told(path)
    place = {"path": path, "cwd": cwd if same_image and same_directory else None, "authkey": None, "main": main}
    return _described(place, serializer, [os.path.basename(first), *rest])


def _arguments() -> list[str]:
    return [str(word) for word in getattr(sys, "argv", [])]


def _described(place: dict[str, Any], serializer: dict[str, Any], argv: list[str]) -> bytes:
    return pickle.dumps({**place, **_shadowing(), **_program_settings(), "argv": argv, **serializer}, 5)


def _program_settings() -> dict[str, Any]:
    """Return the filters of warnings and the levels of loggers, if they are not an interpreter's own."""
    found = settings()
    return {"settings": found} if found else {}


def _shadowing() -> dict[str, Any]:
    """Return the standard library names under which the program has its own modules, for example a ``json.py``."""
    loaded = sys.stdlib_module_names & sys.modules.keys()
    names = tuple(name for name in loaded if not is_stdlib(getattr(sys.modules[name], "__file__", None)))
    return {"shadowing": names} if names else {}
