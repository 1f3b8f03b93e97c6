"""The notebook, in a real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.examples.conftest import EXAMPLES

for needed in ("ipykernel", "matplotlib", "nbclient"):
    pytest.importorskip(needed, reason=f"the notebook needs {needed}, which is in the extra 'examples'")

EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=40, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def outputs(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text())["cells"]
    return [output for cell in cells for output in cell.get("outputs", ())]


def printed(notebook: Path) -> list[str]:
    return ["".join(output["text"]) for output in outputs(notebook) if "text" in output]


def pictures(notebook: Path) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs_and_prints_what_it_should(tmp_path: Path) -> None:
    executed = tmp_path / "executed.ipynb"
    ran = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(EXAMPLES / "notebook.ipynb"), str(executed)],
        env={**os.environ, "IPYTHONDIR": str(tmp_path), "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert pictures(executed) == pictures(EXAMPLES / "notebook.ipynb") == 1
    assert (
        printed(executed)
        == printed(EXAMPLES / "notebook.ipynb")
        == [
            "[0, 10, 20, 30, 40]\n[0, 100, 200, 300, 400]\n",
            "Point(x=2.0, y=1.0) True\n",
            "ZeroDivisionError caused by RemoteTraceback\n",
            "True True\nTrue\n",
        ]
    )
