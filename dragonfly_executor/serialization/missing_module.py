"""Explains an ImportError on a runner: which host lacks the module, and how to install it there."""

from __future__ import annotations

import os

from dragonfly_executor.protocol.parent import Parent

HOST_NAME = "DRAGONFLY_HOST"
"""Environment variable of a runner: the user's name for its host. Not set if the user gave none."""
_CAUSES = 16


def explain_missing_module(exc: BaseException) -> None:
    """Add a note (PEP 678) to an error caused by a missing module. The note travels with the error."""
    try:
        missing = _missing(exc)
        if missing is not None:
            BaseException.add_note(exc, _explained(missing))
    except Exception:  # the class may override __cause__ or __notes__: such an error gets no note
        return


def _missing(exc: BaseException) -> str | None:
    """Return the missing module that caused an error, or None.

    Only causes are followed: an error that is only a context was handled.
    """
    link: BaseException | None = exc
    for _ in range(_CAUSES):
        if link is None:
            break
        if isinstance(link, ModuleNotFoundError) and link.name:
            return link.name
        link = link.__cause__
    return None


def _explained(name: str) -> str:
    parent = Parent.get()
    runner = "" if parent is None else f" of runner {parent.runner_id}"
    top = name.partition(".")[0]
    host = os.environ.get(HOST_NAME) or os.uname().nodename
    return (
        f"The module {name!r} is not on the host {host!r}{runner}. Three ways to get it there: "
        f"if it is a module or folder of your own, name it in the backend's sync=[...]; "
        f"if it is a package, name it in the backend's requirements=[{top!r}]; "
        f"or install it on the host. (A script without a guard needs no module: its definitions travel by value.)"
    )
