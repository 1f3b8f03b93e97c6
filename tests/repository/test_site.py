"""The documentation site: each page is in its navigation, and each public name in its API reference."""

from __future__ import annotations

import re
import runpy
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest

import dragonfly_executor
from dragonfly_executor import multiprocessing, testing
from dragonfly_executor.integrations.prometheus import PrometheusMetrics
from dragonfly_executor.protocol.frames import PROTOCOL_VERSION, Kind

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"
CONFIGURATION = (SITE / "mkdocs.yml").read_text()
HOOKS: dict[str, Any] = runpy.run_path(str(SITE / "hooks.py"))
VARIABLE = re.compile(r"\bDRAGONFLY_[A-Z_]+\b")
NOT_IN_THE_REFERENCE = {"__version__", "TimeoutError", "cpu_count"}
"""A string, and two names of the standard library."""


def test_each_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"^ +- [^:#]+: ([\w./-]+\.md)$", CONFIGURATION, re.MULTILINE))
    missing = {path.name for path in ROOT.glob("docs/*.md")} - named
    assert not missing, (
        f"no line under `nav` in docs/site/mkdocs.yml names {sorted(missing)}. "
        "Add `- Title of the page: NAME.md` to the part of the site to which the page belongs"
    )


def test_each_page_of_a_backend_says_what_it_was_tested_against() -> None:
    backends = CONFIGURATION.partition("- Choose a backend:")[2].partition("- Write a backend:")[0]
    pages = re.findall(r": ([\w-]+\.md)$", backends, re.MULTILINE)[1:]
    assert "ssh.md" in pages
    heading = re.compile(r"^## .*\b(tested|verified)\b", re.MULTILINE)
    assert [page for page in pages if not heading.search((ROOT / "docs" / page).read_text())] == []


def test_each_public_name_is_in_the_api_reference() -> None:
    shown = {(module, name) for module, names in HOOKS["API"].values() for name in names}
    public = {
        (module.__name__, name)
        for module in (dragonfly_executor, multiprocessing, testing)
        for name in set(module.__all__) - NOT_IN_THE_REFERENCE
    }
    assert public == shown, "name it in API of docs/site/hooks.py"
    assert all(hasattr(import_module(module), name) for module, name in shown)


def test_the_table_of_the_wire_format_has_each_kind() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", (ROOT / "docs" / "wire-format.md").read_text(), re.MULTILINE)
    assert rows == [(str(int(kind)), kind.name) for kind in Kind]
    assert f"version {PROTOCOL_VERSION}." in (ROOT / "docs" / "wire-format.md").read_text()


def test_the_page_of_environment_variables_has_each_of_ours() -> None:
    page = (ROOT / "docs" / "environment.md").read_text()
    package = Path(dragonfly_executor.__file__).parent
    read = {name for path in package.rglob("*.py") for name in VARIABLE.findall(path.read_text())}
    assert {name for name in read - {"DRAGONFLY_DEFAULTS"} if f"`{name}" not in page} == set()


def test_the_page_of_metrics_has_each_metric() -> None:
    registry = prometheus_client.CollectorRegistry()
    PrometheusMetrics(registry)
    suffix = {"counter": "_total", "gauge": "", "histogram": ""}
    there = {(family.name + suffix[family.type], family.type) for family in registry.collect()}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert set(rows) == there


def test_the_page_of_the_command_line_has_each_command() -> None:
    page = HOOKS["command_page"]()
    assert {f"## dragonfly {name}\n" in page for name in ("doctor", "status", "top", "sweep", "dashboard")} == {True}
    assert page.count("usage: dragonfly ") == page.count("## dragonfly ") + 1


def test_each_recorded_output_is_of_an_example() -> None:
    recorded = runpy.run_path(str(ROOT / "docs" / "record_outputs.py"))["EXAMPLES"]
    assert {path.stem for path in (ROOT / "docs" / "outputs").glob("*.txt")} == set(recorded)
    shown = {path: text for _, path, text, _ in HOOKS["example_pages"]()}
    assert all("It prints, for example:" in shown[f"examples/{name}.md"] for name in recorded)
    assert "picture.svg" in shown["examples/transcode.md"]
    assert "](notebook-1.png)" in shown["examples/notebook.md"]
    assert HOOKS["notebook"](ROOT / "examples" / "notebook.ipynb")[1]["notebook-1.png"].startswith(b"\x89PNG")
    # A backend runs nothing by itself.
    assert set(shown) - {f"examples/{name}.md" for name in recorded} == {
        "examples/docker_engine.md",
        "examples/notebook.md",
        "examples/transcode.md",
    }


def test_the_gallery_has_each_example() -> None:
    linked = set(re.findall(r"\]\(([\w/.]+)\)", (ROOT / "examples" / "README.md").read_text()))
    pages = {
        path: {source.removeprefix("examples/") for source in sources}
        for _, path, _, sources in HOOKS["example_pages"]()
    }
    assert [path for path, sources in pages.items() if not sources & linked] == []


def test_the_diagrams_are_those_of_their_source() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "draw_diagrams.py"))
    files = {path.stem: path.read_text() for path in (ROOT / "docs" / "diagrams").glob("*.svg")}
    assert files == {name: diagram.svg() for name, diagram in drawn["DIAGRAMS"].items()}


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("index.md", "docs/ssh.md#proxies", "ssh.md#proxies"),
        ("index.md", "CHANGELOG.md", "project/changelog.md"),
        ("asyncio.md", "../examples/trio_calls.py", "examples/trio_calls.md"),
        ("fly.md", "../examples/fly_app", "examples/fly_app.md"),
        ("decisions/0001-no-asyncio.md", "../../ARCHITECTURE.md", "../project/architecture.md"),
        ("project/architecture.md", "docs/decisions/README.md", "../decisions/README.md"),
        ("ssh.md", "fly.md#volumes", "fly.md#volumes"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(page: str, link: str, there: str) -> None:
    assert HOOKS["with_links_of_the_site"](f"see [it]({link}).", page) == f"see [it]({there})."


@pytest.mark.parametrize(
    "tag", ['<script src="https://cdn.example/x.js">', '<link rel="stylesheet" href="//cdn.example">']
)
def test_a_page_that_fetches_something_from_elsewhere_is_refused(tag: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    with pytest.raises(ValueError, match=r"cdn\.example"):
        HOOKS["on_post_page"](f"<head>{tag}</head>", page)
    own = '<script src="assets/x.js"></script><a href="https://semver.org">'
    assert HOOKS["on_post_page"](own, page) == own


def test_code_keeps_its_brackets() -> None:
    code = "```python\nx[0](docs/ssh.md)\n```"
    assert HOOKS["with_links_of_the_site"](code, "index.md") == code


def test_an_anchor_is_that_of_github() -> None:
    assert HOOKS["github_anchor"]("How to add ...", "-") == "how-to-add-"
    assert HOOKS["github_anchor"]("The words, and `why`", "-") == "the-words-and-why"
