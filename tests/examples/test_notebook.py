"""The notebook, in a real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES

for needed in ("ipykernel", "nbclient"):
    pytest.importorskip(needed, reason=f"the notebook needs {needed}, which is in the extra 'examples'")

EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=40, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


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
    cells = json.loads(executed.read_text())["cells"]
    printed = ["".join(output["text"]) for cell in cells for output in cell.get("outputs", ()) if "text" in output]
    assert printed == [
        "[0, 10, 20, 30, 40]\n[0, 100, 200, 300, 400]\n",
        "Point(x=2.0, y=1.0) True\n",
        "ZeroDivisionError caused by RemoteTraceback\n",
        "True True\nTrue\n",
    ]
