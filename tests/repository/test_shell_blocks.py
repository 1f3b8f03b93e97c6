"""The shell blocks of the pages run, and every command line of a page is one that the project understands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragonfly_executor import Pool
from dragonfly_executor.engine.observing import runtime_directory
from tests.support.helpers import becomes_true
from tests.support.page_commands import BLOCKS, ROOT, commands, complaint

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/decisions/*.md"), *ROOT.glob("examples/*.md")]
)
PROGRAMS = [
    pytest.param(program, id=f"{page.name}-{number}")
    for page in PAGES
    for number, program in enumerate(BLOCKS["shell_programs"](page.read_text()), 1)
]
TEST = re.compile(r"tests/[\w/]+(?:\.py)?")


@pytest.fixture
def running_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """A pool that `dragonfly status` finds."""
    folder = tmp_path / "run"
    monkeypatch.setenv(runtime_directory.VARIABLE, str(folder))
    with Pool("media", min=0, max=1) as pool:
        assert pool.call(pow, 2, 3) == 8
        assert becomes_true(pool, lambda: any(path.suffix == ".sock" for path in folder.glob("*")))
        yield pool


@pytest.mark.usefixtures("running_pool")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_shell_block_runs(program: str, tmp_path: Path) -> None:
    """The reader's folder has an environment `.venv` with this project."""
    folder = tmp_path / "reader"
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", program],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_command_lines_of_a_page_are_understood(page: Path) -> None:
    """Also those of blocks that no test runs: the option, the module, the extra and the file are there."""
    found = [(shown, complaint(shown)) for shown in commands(page.read_text())]
    assert [(" ".join(shown), why) for shown, why in found if why] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_blocks_parse_and_tests_that_run_them_are_there(page: Path) -> None:
    for block in BLOCKS["blocks"](page.read_text()):
        if block.language == "sh":
            parsed = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True, check=False)
            assert parsed.stderr == ""
        assert [test for test in TEST.findall(block.not_run) if not (ROOT / test).exists()] == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("dragonfly doctor --backend ssh --hosts gpu1", "unrecognized arguments: --hosts"),
        ("dragonfly statuses", "there is no command statuses"),
        ("dragonfly simulate --boot soon trace.csv && true", "--boot"),
        ("python -m benchmarks.nothing", "there is no module benchmarks.nothing"),
        ("python -m benchmarks.core --kind 10", "benchmarks.core has no --kind"),
        ("python docs/record_nothing.py NAME", "there is no file docs/record_nothing.py"),
        ("pip install 'dragonfly-executor[shh]'", "there is no extra shh"),
        ("tox -e doc", "tox has no doc"),
        ("python -m pytest tests/unti", "there is no tests/unti"),
        ("just tests", "just has no tests"),
    ],
)
def test_a_wrong_command_line_is_found(line: str, why: str) -> None:
    for text in (f"Run `{line}`.", f"```sh\n{line}\n```", f"```console\n$ {line}\n```"):
        assert any(why in complaint(shown) for shown in commands(text)), text


def test_the_commands_of_a_transcript_run_without_what_they_print() -> None:
    text = "<!-- run before: a=1 -->\n```console\n$ echo $a\n1\n```\n<!-- not run: why -->\n```sh\nrm\n```\n"
    assert list(BLOCKS["shell_programs"](text)) == ["a=1\necho $a\n"]
