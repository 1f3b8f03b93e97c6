"""A module that is not there on a runner: whoever sees the error is told where, and how it gets there."""

from __future__ import annotations

import os

from dragonfly_executor.protocol.parent import Parent

HOST_NAME = "DRAGONFLY_HOST"
"""Environment variable of a runner: the name by which the user calls its host. Not set where the user named none."""
_CAUSES = 16


def explain_missing_module(exc: BaseException) -> None:
    """Add a note (PEP 678) to an error that comes of a missing module; it travels with the error."""
    try:
        missing = _missing(exc)
        if missing is not None:
            BaseException.add_note(exc, _explained(missing))
    except Exception:  # __cause__ and __notes__ may be the user's own: such an error goes without
        return


def _missing(exc: BaseException) -> str | None:
    """The module for want of which an error was raised, or None. Only causes count: a context was dealt with."""
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
        f"or install it on the host. (What a script without a guard defines travels by value, and needs no module.)"
    )
