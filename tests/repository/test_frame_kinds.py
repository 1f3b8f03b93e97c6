"""Each kind of frame has a receiver: a frame of a kind without one is ignored."""

from __future__ import annotations

import ast
from pathlib import Path

import dragonfly_executor
from dragonfly_executor.protocol.frames import Kind

PACKAGE = Path(dragonfly_executor.__file__).parent
ENDS = ("engine", "runner", "transport", "protocol")
"""The rooms that receive frames."""


def kinds_in(node: ast.AST) -> set[str]:
    """Names of the kinds in an expression or a pattern."""
    names = (each for each in ast.walk(node) if isinstance(each, ast.Attribute))
    return {each.attr for each in names if isinstance(each.value, ast.Name) and each.value.id == "Kind"}


def received() -> set[str]:
    """Names of the kinds that a `case` or a comparison asks for, or that a function expects of a frame."""
    found: set[str] = set()
    for room in ENDS:
        for path in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.match_case):
                    found |= kinds_in(node.pattern)
                elif isinstance(node, ast.Compare) or (
                    isinstance(node, ast.Call) and "frame" in map(ast.unparse, node.args)
                ):
                    found |= kinds_in(node)
    return found


def test_each_kind_has_a_receiver() -> None:
    assert {kind.name for kind in Kind} - received() == set()
