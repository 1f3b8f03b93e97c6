"""The arguments of backends from texts, as a command line gives them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def arguments_from_text(settings: Mapping[str, str], **readers: Callable[[str], Any]) -> dict[str, Any]:
    """Return arguments for a backend of texts. A text without a reader stays as it is.

    Args:
        settings: texts by the name of their argument.
        readers: what reads the texts of the arguments that only this backend has, or that it reads in its own way.

    Raises:
        ValueError: a text cannot be read.
    """
    known = {**READERS, **readers}
    arguments: dict[str, Any] = {}
    for name, text in settings.items():
        try:
            arguments[name] = known[name](text) if name in known else text
        except ValueError as error:
            raise ValueError(f"cannot read {name}={text}: {error}") from error
    return arguments


def words(given: str | Iterable[str]) -> list[str]:
    """Return the words of a list, or of a text in which commas separate them."""
    found = given.split(",") if isinstance(given, str) else list(given)
    return [word.strip() for word in found if word.strip()]


def truth(text: str) -> bool:
    """Read "true" or "false".

    Raises:
        ValueError: the text is neither.
    """
    if text.lower() not in TRUTHS:
        raise ValueError("write true or false")
    return TRUTHS[text.lower()]


def pairs(text: str, noun: str = "VALUE") -> dict[str, str]:
    """Read "region=eu zone=a". `noun` stands for a value in the error.

    Raises:
        ValueError: a word is no pair.
    """
    found = [word.partition("=") for word in text.split()]
    if not all(value for _, _, value in found):
        raise ValueError(f"write NAME={noun}, and a space between two of them")
    return {name: value for name, _, value in found}


def amounts(text: str) -> dict[str, float]:
    """Read "GPU=1 MEM=4e9".

    Raises:
        ValueError: a word is no pair, or an amount is no number.
    """
    return {name: float(amount) for name, amount in pairs(text, "AMOUNT").items()}


def _labels(text: str) -> list[str]:
    """Read "eu,big" or "eu big"."""
    return text.replace(",", " ").split()


def _sync(text: str) -> str | None:
    """Read the mode of sync; "none" stands for None."""
    return None if text == "none" else text


READERS: Mapping[str, Callable[[str], Any]] = {
    "boot_timeout": float,
    "failsafe": float,
    "labels": _labels,
    "max_idle": float,
    "max_lifetime": float,
    "port": int,
    "queue_timeout": float,
    "sweep": truth,
    "sync": _sync,
}
"""Readers of the arguments that several backends have, by name."""
