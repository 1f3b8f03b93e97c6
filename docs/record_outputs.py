"""Run the examples that end by themselves, and write what they print to docs/outputs/: the site shows it beside each.

    python docs/record_outputs.py

Process numbers and times differ from run to run, so no test compares them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "outputs"
EXAMPLES = (
    "asyncio_calls", "asyncio_timeout_cancel", "progress", "streams", "swap_multiprocessing_pool", "swap_process_pool",
    "trio_calls",
)  # fmt: skip


def main() -> None:
    """Record all outputs. What an example prints to stderr, such as a bar, is part of it."""
    FOLDER.mkdir(exist_ok=True)
    for name in EXAMPLES:
        command = [sys.executable, f"examples/{name}.py"]
        ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
        (FOLDER / f"{name}.txt").write_text(ran.stdout.replace(str(ROOT), "."))


if __name__ == "__main__":
    main()
