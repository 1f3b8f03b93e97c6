"""The main job, `examples/transcode.py`, on two runners of a cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "transcode.py"


def transcode_on_two_runners(folder: Path, backend: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
    """Run the example, and check that its video has each frame of the original.

    Args:
        folder: where the video goes.
        backend: its name.
        arguments: more arguments of the example.
        env: its environment; None for that of this process.
    """
    fixed = ["--runners", "2", "--slots", "1", "--quiet", "--no-comparison", "--output", str(folder / "out.mp4")]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--backend", backend, *fixed, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "runners     2 (" in done.stdout
    assert "132 frames, 5.28 s, as the original has" in done.stdout
