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
from dragonfly_executor import CallOptions, Pool, errors
from dragonfly_executor.engine.options import PoolOptions

ROOT = Path(__file__).parents[2]
PACKAGE = Path(dragonfly_executor.__file__).parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
DECISIONS = ROOT / "docs" / "decisions"
OPTIONS = ROOT / "docs" / "options.md"
INSIDE = [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted(DECISIONS.glob("*.md"))]
"""Pages for those who change the code: they name files, and what is defined in them."""
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"`((?:\w+/)+\w+\.py)(?::([\w.]+))?`")
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


def defined_in(path: Path) -> set[str]:
    """The functions, classes, methods and assigned names of a file, a method as `Class.method`."""
    names: set[str] = set()
    waiting: list[tuple[ast.AST, str]] = [(ast.parse(path.read_text()), "")]
    while waiting:
        node, prefix = waiting.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(prefix + child.name)
                waiting.append((child, f"{prefix}{child.name}."))
            elif isinstance(child, ast.Assign | ast.AnnAssign):
                owner = re.sub(r"\w+\.$", "", prefix)  # of an attribute that a method sets
                for target in map(ast.unparse, child.targets if isinstance(child, ast.Assign) else [child.target]):
                    names.add(owner + target[5:] if target.startswith("self.") else prefix + target)
            else:
                waiting.append((child, prefix))
    return names


@pytest.mark.parametrize("page", INSIDE, ids=lambda page: page.name)
def test_what_a_page_names_in_the_code_is_there(page: Path) -> None:
    """Whoever renames a file or a function that a page names finds that page here."""
    missing = []
    for file, name in PLACE.findall(page.read_text()):
        path = next((path for path in (PACKAGE / file, ROOT / file) if path.exists()), None)
        if path is None or (name and name not in defined_in(path)):
            missing.append(f"{file}:{name}")
    assert missing == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_every_decision_stands_in_the_log() -> None:
    text = (DECISIONS / "README.md").read_text()
    pages = {path.name for path in DECISIONS.glob("0*.md")}
    assert set(LINK.findall(text)) >= pages
    words = ("**Problem.**", "**Decision.**", "**Why.**", "**What it costs.**")
    assert [name for name in sorted(pages) if any(word not in (DECISIONS / name).read_text() for word in words)] == []


def test_every_room_stands_in_the_map() -> None:
    places = [path for path in PACKAGE.iterdir() if path.is_file() or any(path.glob("*.py"))]
    rooms = {path.name + "/" * path.is_dir() for path in places if not path.name.startswith(("_", "py."))}
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert [room for room in sorted(rooms) if f"`{room}`" not in text] == []


def test_every_file_has_a_line_in_the_tree() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = re.split(r"^### `([\w/]+)/`", text, flags=re.MULTILINE)[1:]
    lines = {
        f"{room}/{file}"
        for room, table in zip(rooms[::2], rooms[1::2], strict=True)
        for file in re.findall(r"^\| `(\w+\.py)` \| \S", table, re.MULTILINE)
    }
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.glob("*/**/*.py") if path.name != "__init__.py"}
    assert lines == files


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (tuple(PoolOptions.OPTIONS), f"{Pool.__doc__}{OPTIONS.read_text()}"),
        (tuple(CallOptions.OPTIONS), CallOptions.__doc__),
        (tuple(CallOptions.OPTIONS), OPTIONS.read_text()),
    ],
    ids=["pool options", "call options", "call options in the page"],
)
def test_every_option_is_documented(names: tuple[str, ...], text: str) -> None:
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_every_error_is_public_and_has_a_row() -> None:
    names = set(errors.__all__) - {"RemoteTraceback"}  # the cause of an error, never raised itself
    assert names <= set(dragonfly_executor.__all__)
    rows = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE))
    assert rows == names - {"DragonflyError"}
