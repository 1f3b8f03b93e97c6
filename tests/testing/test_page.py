"""The programs of docs/testing.md run, in a pytest of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()
FILE = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    files = FILE.findall(PAGE)
    assert len(files) == PAGE.count("```python")
    for name, code in files:
        (tmp_path / name).write_text(code)
    # The plugin is named here, because its entry point is there only where this version was installed.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-W",
        "error",
        "--strict-markers",
        "-p",
        "dragonfly_executor.pytest_plugin",
    )
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    tests = sum(len(re.findall(r"^ *def test_", code, re.MULTILINE)) for _, code in files)
    assert f"{tests} passed" in ran.stdout, ran.stdout + ran.stderr
