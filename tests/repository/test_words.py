"""Docstrings name their subject: they do not begin with a word that stands for something else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dragonfly_executor

PACKAGE = Path(dragonfly_executor.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
REFUSED = {
    "As", "How", "It", "Nobody", "Nothing", "Somebody", "That", "They", "What", "When", "Where", "Whether",
    "Which", "Who", "Whoever", "Why",
}  # fmt: skip
REFUSED_BEGINNINGS = ("The same",)

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring of a module, also of those that explain a name."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = node.body if isinstance(node, Documented) else []
        for place, statement in enumerate(body):
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
                and (place == 0 or isinstance(body[place - 1], ast.Assign | ast.AnnAssign))
            ):
                yield statement.lineno, statement.value.value.strip()


def refused(text: str) -> bool:
    word = text.split(None, 1)[0].strip(".,:;") if text else ""
    return word in REFUSED or text.startswith(REFUSED_BEGINNINGS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_begin_with_a_verb_or_a_noun(path: Path) -> None:
    assert [(line, text.splitlines()[0]) for line, text in docstrings(path) if refused(text)] == []


@pytest.mark.parametrize(
    "text", ["What a runner is told.", "The same of one that is there.", "It would have nowhere to dial"]
)
def test_riddles_are_found(text: str) -> None:
    assert refused(text)
    assert not refused("Return what a runner is told.")
