"""Texts name their subject: docstrings begin with it, and no text has a word that stands for an unnamed actor."""

from __future__ import annotations

import ast
import re
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
ROOT = Path(__file__).parents[2]
UNNAMED = re.compile(
    r"\b(?:anybody|everybody|nobody|somebody|whoever|whom|in vain|so many|so much|altogether)\b", re.IGNORECASE
)
"""Words that stand for an actor or an amount without a name."""
TEXTS = [
    *MODULES,
    *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/*.py"),
    *ROOT.glob("examples/**/*.md"), *ROOT.glob("examples/**/*.py"), *ROOT.glob("benchmarks/**/*.py"),
]  # fmt: skip

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


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_name_who_acts_and_how_many(path: Path) -> None:
    """Code, comments, docstrings, error texts and pages. Write "no process", "this number of calls", "the owner"."""
    lines = enumerate(path.read_text().splitlines(), 1)
    assert [(number, line) for number, line in lines if UNNAMED.search(line)] == []


@pytest.mark.parametrize("text", ["Whoever takes it", "nobody waits", "After so many seconds", "it polls in vain"])
def test_unnamed_actors_are_found(text: str) -> None:
    assert UNNAMED.search(text)
    assert not UNNAMED.search("The owner waits for this number of seconds. Nobodys and sommany are no words.")


@pytest.mark.parametrize(
    "text", ["What a runner is told.", "The same of one that is there.", "It would have nowhere to dial"]
)
def test_riddles_are_found(text: str) -> None:
    assert refused(text)
    assert not refused("Return what a runner is told.")
