"""The code blocks of the pages run, in the order of the page and as one program."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"
BLOCKS: dict[str, Any] = runpy.run_path(str(SITE / "blocks.py"))
HOOKS: dict[str, Any] = runpy.run_path(str(SITE / "hooks.py"))
OWN_TESTS = {"testing.md": "tests/testing/test_page.py", "web.md": "tests/integrations/test_web_recipes.py"}
"""Pages whose blocks are files of the reader's program, and the tests that run them."""
PAGES = [
    path
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/decisions/*.md")))
    if path.name not in OWN_TESTS and "```python" in path.read_text()
]
EXAMPLES: dict[str, str] = BLOCKS["examples"](SITE / "api_examples.md")


def run(program: str, folder: Path) -> str:
    """Run a program outside of the tree, as a reader does, and return what it prints. Warnings are errors."""
    script = folder / "program.py"
    script.write_text(program)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    ran = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    for program in BLOCKS["programs"](page.read_text()):
        run(program, tmp_path)


def test_pages_with_tests_of_their_own_have_them() -> None:
    assert [page for page, test in OWN_TESTS.items() if page not in (ROOT / test).read_text()] == []


def test_the_examples_of_the_api_reference_run(tmp_path: Path) -> None:
    for program in BLOCKS["programs"]((SITE / "api_examples.md").read_text()):
        run(program, tmp_path)


def test_each_name_of_the_api_reference_has_an_example() -> None:
    for title, (module, names) in HOOKS["API"].items():
        if title == "Errors":
            assert "except RunnerLostError" in EXAMPLES[title]
            continue
        for name in names:
            # Users see some classes only as what others return.
            key = "multiprocessing.Pool" if (title, name) == ("multiprocessing", "Pool") else name
            assert EXAMPLES.get(key), f"write an example of {module}.{name} in docs/site/api_examples.md"
            compile(EXAMPLES[key], key, "exec")


PAGE = """
```python
a = 1
```
text
<!-- not run: needs a cluster -->
```python
fly()
```

<!-- run before: b = 2
c = 3 -->

```python
print(a, b, c)
```
```sh
ls
```
```python
if __name__ == "__main__":
    print("alone")
```
"""


def test_a_page_is_a_program_without_what_is_not_run(tmp_path: Path) -> None:
    together, alone = BLOCKS["programs"](PAGE)
    assert run(together, tmp_path) == "1 2 3\n"
    assert run(alone, tmp_path) == "alone\n"
    assert [block.not_run for block in BLOCKS["blocks"](PAGE)] == ["", "needs a cluster", "", "", ""]


def test_a_block_that_fails_fails_the_test(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(next(BLOCKS["programs"]("```python\n1 / 0\n```")), tmp_path)
