"""What the guides show compiles, what they import is there, and what they link to exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import dragonfly_executor

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)[^)]*\)")


def examples() -> Iterator[Any]:
    for page in PAGES:
        for number, found in enumerate(FENCE.finditer(page.read_text()), 1):
            yield pytest.param(found[1], id=f"{page.name}-{number}")


@pytest.mark.parametrize("code", list(examples()))
def test_code_in_a_page_compiles_and_imports_what_there_is(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dragonfly_executor"):
            module = import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    dead = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert dead == []


@pytest.mark.parametrize("name", [name for name in dragonfly_executor.__all__ if not name.startswith("_")])
def test_every_public_name_stands_in_a_page_for_users(name: str) -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    assert any(re.search(rf"\b{name}\b", page.read_text()) for page in pages)
    assert getattr(dragonfly_executor, name).__doc__


def test_every_room_stands_in_the_map() -> None:
    package = Path(dragonfly_executor.__file__).parent
    places = [path for path in package.iterdir() if path.is_file() or any(path.glob("*.py"))]
    rooms = {path.name + "/" * path.is_dir() for path in places if not path.name.startswith(("_", "py."))}
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert [room for room in sorted(rooms) if f"`{room}`" not in text] == []
