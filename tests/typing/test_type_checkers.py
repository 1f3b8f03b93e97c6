"""What mypy and pyright say of users' programs, and what an editor completes in them.

A line of a program in the folder `programs` that is an error has a mark. No other line may be one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from dragonfly_executor.engine.options import CallOptions, PoolOptions
from tests.typing.language_server import language_server

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
MARK = re.compile(r"# error: ([\w, -]+)$")
MYPY_LINE = re.compile(r"^(.+?):(\d+): error: .*\[([\w-]+)\]$")
Errors = dict[str, set[str]]
"""The codes of the errors of each line, by the file's name and the line's number."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (find_spec("mypy") and find_spec("basedpyright")), reason="mypy and basedpyright come with the extra dev"
    ),
]


def expected(*, pyright: bool) -> Errors:
    """The errors that the programs' lines are marked with. Pyright's rules begin with "report", mypy's codes do not."""
    marked: Errors = {}
    for path in PROGRAMS.glob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if found := MARK.search(line):
                marked[f"{path.name}:{number}"] = {
                    code for code in found[1].split(", ") if code.startswith("report") is pyright
                }
    return marked


def run(*command: str | Path, cwd: Path) -> str:
    ran = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stdout + ran.stderr  # 0: there are no errors; 2: the checker could not run
    return ran.stdout


def collect(errors: Iterator[tuple[str, int, str]]) -> Errors:
    """Gather errors, each a path, a line and a code."""
    found: Errors = {}
    for path, line, code in errors:
        found.setdefault(f"{Path(path).name}:{line}", set()).add(code)
    return found


def write_pyrights_settings(folder: Path, **settings: object) -> None:
    settings |= {"extraPaths": [str(ROOT)], "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))


def test_mypy_finds_the_errors_that_are_marked(tmp_path: Path) -> None:
    # The package is followed and not reported on, as an installed one is.
    settings = tmp_path / "mypy.ini"
    settings.write_text(f"[mypy]\nstrict = true\nfollow_imports = silent\nmypy_path = {ROOT}\npython_version = 3.11\n")
    output = run(
        sys.executable, "-m", "mypy", "--config-file", settings, "--cache-dir", tmp_path / "cache", PROGRAMS,
        cwd=tmp_path,
    )  # fmt: skip
    lines = [line for line in output.splitlines() if ": error: " in line]
    matches = [MYPY_LINE.match(line) for line in lines]
    assert None not in matches, output
    assert collect((match[1], int(match[2]), match[3]) for match in matches if match) == expected(pyright=False)


def test_pyright_finds_the_errors_that_are_marked(tmp_path: Path) -> None:
    write_pyrights_settings(tmp_path, include=[str(PROGRAMS)], typeCheckingMode="strict")
    command = (sys.executable, "-m", "basedpyright", "-p", tmp_path, "--pythonpath", sys.executable, "--outputjson")
    said = json.loads(run(*command, cwd=tmp_path))["generalDiagnostics"]
    errors = ((each["file"], each["range"]["start"]["line"] + 1, each.get("rule", "")) for each in said)
    assert collect(errors) == expected(pyright=True)


MADE = "from dragonfly_executor import CallOptions, DragonflyExecutor, Pool\nexecutor = DragonflyExecutor()\n"


def test_an_editor_completes_every_option(tmp_path: Path) -> None:
    write_pyrights_settings(tmp_path)
    calls = {f"{name}=" for name in CallOptions.OPTIONS}
    pools = {f"{name}=" for name in PoolOptions.OPTIONS}
    with language_server(tmp_path) as server:
        for text in ("executor.options(|)", "executor.options(timeout=1).options(|)", "CallOptions(|)"):
            assert options_in(server.completions(MADE + text)) == calls, text
        for text in ("DragonflyExecutor(|)", "DragonflyExecutor(backend=None, |)", "Pool('pool', |)"):
            assert options_in(server.completions(MADE + text)) > calls | pools, text


def options_in(labels: set[str]) -> set[str]:
    return {label for label in labels if label.endswith("=")}
