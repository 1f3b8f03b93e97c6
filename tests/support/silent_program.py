"""A program that takes the place of another one, and never answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def silent_program(path: Path) -> tuple[str, Callable[[], object]]:
    """Write a program that runs until it is killed.

    Returns:
        Its path, and a function that waits until it runs.
    """
    told = path.with_name(f"{path.name}-runs")
    os.mkfifo(told)
    path.write_text(f"#!/bin/sh\necho > {told}\nexec sleep 1000\n")
    path.chmod(0o755)
    return str(path), told.read_text
