"""`BackendCheck`: the result of one check that a backend makes without a runner, for ``dragonfly doctor``."""

from __future__ import annotations

from typing import NamedTuple


class BackendCheck(NamedTuple):
    """The result of one check.

    Attributes:
        name: the name of the check.
        ok: whether it passed.
        text: the result in words.
        advice: the remedy if it failed.
    """

    name: str
    ok: bool
    text: str
    advice: str = ""
