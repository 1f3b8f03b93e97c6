"""Names of classes: one name, one class."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import dragonfly_executor

PACKAGE = Path(dragonfly_executor.__file__).parent


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert len(places) > 200
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
