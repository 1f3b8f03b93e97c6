"""What is in the registries: the images that Pods can be made of."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
REPOSITORY = Path(__file__).resolve().parents[3]
IMAGE = "registry.example/app:1"


@dataclass(frozen=True, slots=True)
class PodImage:
    """What a container's process finds.

    Attributes:
        env: the image's own environment.
        entrypoint, cmd: what runs unless the container says otherwise.
        workdir: where it runs; "" for the container's own folder.
        pull_time: seconds; None for ever.
        failure: why its pull fails; "" if it does not.
    """

    env: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ("python3", "-c", "pass")
    workdir: str = ""
    pull_time: float | None = 0.01
    failure: str = ""


def images(folder: Path) -> dict[str, PodImage]:
    """Images for tests, by name. The first has this interpreter and this project."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(parents=True)
    # No links: a virtual environment's interpreter must be called where it is.
    for name, text in (
        ("python", f'exec "{sys.executable}" "$@"'),
        ("python3", f'exec "{sys.executable}" "$@"'),
        ("init", 'export FROM_ENTRYPOINT=yes; exec "$@"'),
        ("mute", "exit 0"),
    ):
        script = bin_folder / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    broken = folder / "broken" / "dragonfly_executor"
    broken.mkdir(parents=True)
    broken.joinpath("__init__.py").write_text('raise ImportError("this image lacks libexample.so")\n')
    # The project, with its tests, is the program that such an image has.
    env = {"PATH": f"{bin_folder}:{SYSTEM_PATH}", "PYTHONPATH": str(REPOSITORY)}
    env |= {key: value for key, value in os.environ.items() if key.startswith("COVERAGE_")}
    denied = "pull access denied, repository does not exist or may require authorization"
    return {
        IMAGE: PodImage(env),
        "registry.example/app:entrypoint": PodImage(env, entrypoint=("init",)),
        "registry.example/app:mute": PodImage(env, entrypoint=("mute",)),
        "registry.example/app:no-python": PodImage({"PATH": str(broken)}),
        "registry.example/app:broken": PodImage({**env, "PYTHONPATH": str(broken.parent)}),
        "registry.example/app:slow": PodImage(env, pull_time=None),
        "registry.example/app:denied": PodImage(env, failure=denied),
        "registry.example/app:away": PodImage(env, failure="dial tcp 203.0.113.5:443: i/o timeout"),
    }
