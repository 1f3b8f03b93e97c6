"""A Fly token, as it travels, and never as it is shown."""

from __future__ import annotations

MACAROONS = ("fm1r_", "fm1a_", "fm2_")
"""How the parts of a token begin that Fly's machines API wants under its own scheme."""


class Token:
    """A secret: neither its repr nor its text, a copy or a pickle shows it.

    Args:
        text: as `fly tokens create` prints it, with or without ``FlyV1`` or ``Bearer`` before it.

    Raises:
        ValueError: there is nothing in it, or it has characters that no header may hold.
    """

    __slots__ = ("__header",)

    def __init__(self, text: str) -> None:
        parts = _parts(text)
        if not parts:
            raise ValueError("the Fly token is empty: `fly tokens create deploy -a APP` prints one")
        if not all(part.isascii() and part.isprintable() and " " not in part for part in parts):
            # Without a word of it: it would stand in a traceback.
            raise ValueError("the Fly token has spaces or characters that no token has: was it copied whole?")
        macaroons = [part for part in parts if part.startswith(MACAROONS)]
        # Macaroons come first; with them a user's own token has no say here.
        self.__header = f"FlyV1 {','.join(macaroons)}" if macaroons else f"Bearer {','.join(parts)}"

    def header(self) -> str:
        """For ``Authorization``."""
        return self.__header

    def blot(self, text: str) -> str:
        """A text without the token, wherever it may stand in there."""
        # The whole first: then its parts are not found in it any more.
        for secret in (self.__header, *self.__header.partition(" ")[2].split(",")):
            text = text.replace(secret, "...")
        return text

    def __repr__(self) -> str:
        return "Token(...)"

    def __reduce__(self) -> str:
        raise TypeError("a Fly token is not pickled")


def _parts(text: str) -> list[str]:
    text = text.strip()
    while True:
        scheme, _, rest = text.partition(" ")
        if scheme.lower() not in ("bearer", "flyv1"):
            break
        text = rest.strip()
    return [part.strip() for part in text.split(",") if part.strip()]
