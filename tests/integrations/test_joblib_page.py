"""The programs of docs/joblib.md run as they stand."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
BLOCKS: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "site" / "blocks.py"))
PAGE = (ROOT / "docs" / "joblib.md").read_text()
PROGRAMS = [block.text for block in BLOCKS["blocks"](PAGE) if block.language == "python"]


@pytest.mark.parametrize(("program", "printed"), [*zip(PROGRAMS, ["'gamma': 0.001", "(0, 1, 4"], strict=True)])
def test_a_program_of_the_page_runs(program: str, printed: str, tmp_path: Path) -> None:
    for module in ("joblib", "sklearn", "dask"):
        if module in program:
            pytest.importorskip(module, reason=f"{module} comes with the extra engines")
    (tmp_path / "program.py").write_text(program)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    ran = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert printed in ran.stdout
