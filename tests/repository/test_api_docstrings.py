"""The docstring of each public function, method and class says what each of its parameters is for."""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

HOOKS: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "site" / "hooks.py"))
UNDERSTOOD = {"self", "cls", "fn", "args", "kwargs", "message"}
"""Parameters that need no words: the function and its arguments, and the text of an error."""
PACKAGE = import_module("dragonfly_executor")
MENTION = re.compile(r"`(?:(\w+)\.)?(\w+)`")


def public_names() -> Iterator[Any]:
    for module, names in HOOKS["API"].values():
        for name in names:
            yield pytest.param(module, name, id=f"{module.rpartition('.')[2]}.{name}")


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - UNDERSTOOD


def explained(text: str, relatives: object, seen: set[str]) -> str:
    """Return a docstring with those that it mentions: in "Run `func` as `imap` does", `imap` may say the rest."""
    for owner, name in MENTION.findall(text):
        if (mention := f"{owner}.{name}") not in seen:
            seen.add(mention)
            relative = getattr(PACKAGE, owner, None) if owner else relatives
            text += explained(inspect.getdoc(getattr(relative, name, None)) or "", relative, seen)
    return text


def missing(function: Any, text: str, relatives: object) -> set[str]:
    """Return the parameters of which neither a docstring nor one that it mentions speaks."""
    text = explained(text, relatives, set())
    return {name for name in parameters(function) if not re.search(rf"\b{name}\b", text)}


def undocumented(module: str, name: str) -> dict[str, set[str]]:
    """Return the parameters of a public name and of its methods that no docstring explains."""
    value = getattr(import_module(module), name)
    if not inspect.isclass(value):
        return {name: missing(value, inspect.getdoc(value) or "", None)}
    found = {}
    if name not in HOOKS["NOT_MADE_BY_USERS"] and value.__init__ is not Exception.__init__:
        # An error says its attributes in the docstring of its class, or of the class that it is made from.
        docs = " ".join(base.__doc__ or "" for base in value.__mro__[:-1])
        with_signature = inspect.getattr_static(value, "__init__")
        if inspect.isfunction(with_signature):
            found["the constructor"] = missing(with_signature, docs + (with_signature.__doc__ or ""), value)
    # A backend's methods are for pools. The reference shows them once, for `Backend`.
    for attribute in () if name in HOOKS["API"]["Backends"][1] else dir(value):
        method = inspect.getattr_static(value, attribute)
        method = getattr(method, "__func__", method)
        if attribute.startswith("_") or attribute in HOOKS["INTERNAL"].get(name, []):
            continue
        if inspect.isfunction(method) and method.__module__.startswith("dragonfly_executor"):
            text = inspect.getdoc(getattr(value, attribute)) or ""
            found[attribute] = missing(method, text, value) if text else {"no docstring"}
    return found


@pytest.mark.parametrize(("module", "name"), list(public_names()))
def test_docstrings_explain_all_parameters(module: str, name: str) -> None:
    assert {method: names for method, names in undocumented(module, name).items() if names} == {}


def resize(*, least: int, most: int) -> None:
    """Set `least`."""


def test_a_parameter_that_is_not_explained_is_found() -> None:
    assert missing(resize, resize.__doc__ or "", None) == {"most"}
    assert missing(resize, "Do as `resize` does, with most.", import_module(__name__)) == set()
