"""The step of the tutorial that uses an SSH host: its command and its program, as they stand in the page."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.ssh.conftest import MakeHost
from tests.support.sshd.user_home import make_home

DOCS = Path(__file__).parents[3] / "docs"
BLOCKS = runpy.run_path(str(DOCS / "site" / "blocks.py"))["blocks"]


@pytest.mark.slow
def test_the_host_of_the_tutorial_is_examined_and_runs_the_program(
    make_host: MakeHost, key: Path, tmp_path: Path
) -> None:
    command, program = [block.text for block in BLOCKS((DOCS / "tutorial.md").read_text()) if "gpu1" in block.text]
    folder = tmp_path / "reader"
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "primes.py").write_text(program)
    environment = {**os.environ, "HOME": str(make_home(tmp_path / "user", key, {"gpu1": make_host()}))}

    def run(*words: str) -> str:
        ran = subprocess.run(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout

    told = run("sh", "-c", command)
    assert re.findall(r"^  (\w.*\S) +FAILED", told, re.MULTILINE) == []
    assert "first result" in told
    assert run(".venv/bin/python", "primes.py") == "2262\n"
