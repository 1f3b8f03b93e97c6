"""`APIToken`: an API token that no repr shows."""

from __future__ import annotations

MACAROONS = ("fm1r_", "fm1a_", "fm2_")
"""Prefixes of the token parts that Fly's Machines API expects under the scheme ``FlyV1``."""


class APIToken:
    """A secret. Its repr, its text, and copies and pickles do not reveal it.

    Args:
        text: the token as `fly tokens create` prints it, with or without a leading ``FlyV1`` or ``Bearer``.

    Raises:
        ValueError: the text is empty, or has characters that a header must not contain.
    """

    __slots__ = ("__header",)

    def __init__(self, text: str) -> None:
        parts = _parts(text)
        if not parts:
            raise ValueError("the Fly token is empty: `fly tokens create deploy -a APP` prints one")
        if not all(part.isascii() and part.isprintable() and " " not in part for part in parts):
            # Do not quote the token, as tracebacks show the error.
            raise ValueError("the Fly token has spaces or characters that no token has: was it copied whole?")
        macaroons = [part for part in parts if part.startswith(MACAROONS)]
        # If there are macaroons, leave out a user's own token, as the API ignores it then.
        self.__header = f"FlyV1 {','.join(macaroons)}" if macaroons else f"Bearer {','.join(parts)}"

    def header(self) -> str:
        """Return the value of the ``Authorization`` header."""
        return self.__header

    def blot(self, text: str) -> str:
        """Return a text with each occurrence of the token, or of a part of it, replaced."""
        # Replace the whole token first, as it contains the parts.
        for secret in (self.__header, *self.__header.partition(" ")[2].split(",")):
            text = text.replace(secret, "...")
        return text

    def __repr__(self) -> str:
        return "APIToken(...)"

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
