"""What is in the registry: the images that machines can be made of."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Image:
    """What a machine's process finds.

    Attributes:
        env: the image's own environment.
        entrypoint, cmd: what runs unless `config.init` says otherwise.
        workdir: where it runs. It is not the parent's directory, so that nothing is there by chance.
        pull_time: seconds in `created`, instead of `Timing.pull_time`. None: for ever.
        fails_to_launch: machines of it go to `launch_failed`, then `destroyed`.
        out_of_memory: its process is killed by the kernel as soon as it runs.
    """

    env: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ("python", "-c", "pass")
    workdir: str = "/"
    pull_time: float | str | None = "usual"
    fails_to_launch: bool = False
    out_of_memory: bool = False


def registry(app: str, folder: Path) -> dict[str, Image]:
    """Images for tests, by name. The first is the app's, with this interpreter and this project as its code."""
    path = _python_in(folder / "bin")
    broken = folder / "broken" / "dragonfly_executor"
    broken.mkdir(parents=True)
    broken.joinpath("__init__.py").write_text('raise ImportError("this image lacks libfly.so")\n')
    env = {"PATH": f"{path}:{SYSTEM_PATH}"} | _instrumented()
    name = f"registry.fly.io/{app}"
    workdir = folder / "workdir"
    workdir.mkdir()
    return {
        f"{name}:deployment-01K": Image(env, workdir=str(workdir)),
        f"{name}:no-python": Image({"PATH": str(folder)}),
        f"{name}:broken-import": Image(env | {"PYTHONPATH": str(broken.parent)}),
        f"{name}:out-of-memory": Image(env, out_of_memory=True),
        f"{name}:stuck": Image(env, pull_time=None),
        f"{name}:launch-failed": Image(env, fails_to_launch=True),
    }


def _python_in(folder: Path) -> Path:
    """A folder with `python` in it. Not a link: a virtual environment's interpreter must be called where it is."""
    folder.mkdir(parents=True)
    for name in ("python", "python3"):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        script.chmod(0o755)
    return folder


def _instrumented() -> dict[str, str]:
    """Where branches are being measured, the image measures, too."""
    return {key: value for key, value in os.environ.items() if key.startswith("COVERAGE_")}
