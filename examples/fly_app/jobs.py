"""The functions that run on runners. Runners import this module, but nothing of the web application."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from dragonfly_executor import Parent


def transcode(video: bytes) -> bytes:
    """Return a video as 480p MP4. Its machine is destroyed some time after the last call."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "source"), Path(folder, "result.mp4")
        source.write_bytes(video)
        command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(source), "-vf", "scale=-2:480", "-c:v", "libx264"]
        ran = subprocess.run([*command, "-preset", "veryfast", str(result)], capture_output=True, check=False)
        if ran.returncode:
            raise ValueError(f"ffmpeg: {ran.stderr.decode(errors='replace')[-500:].strip()}")
        return result.read_bytes()


def describe_place() -> dict[str, object]:
    """Return the machine that this call runs on."""
    parent = Parent.get()
    return {
        "machine": os.environ.get("FLY_MACHINE_ID", os.uname().nodename),
        "runner": parent.runner_id if parent else None,
        "knows_the_token": "FLY_API_TOKEN" in os.environ,
    }
