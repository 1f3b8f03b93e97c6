"""An EC2 region for the tests of this folder."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.backends.ec2.backend import EC2Backend
from tests.support.ec2_world import KEYS, REGION, EC2World

IMAGE = "ami-12c6146b"
"""An image that moto knows."""


@pytest.fixture(scope="session")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EC2World]:
    """A region for all tests, as moto takes seconds to start."""
    missing = [name for name in ("boto3", "moto", "flask") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)} (pip install -e '.[engines]')")
    world = EC2World(tmp_path_factory.mktemp("ec2"))
    yield world
    world.stop()


@pytest.fixture
def ec2(region: EC2World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[EC2World]:
    """The region, with nothing in it."""
    for name, value in {**KEYS, "XDG_STATE_HOME": str(tmp_path / "state"), "AWS_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    region.reset()
    yield region
    region.reset()


@pytest.fixture
def make_backend(ec2: EC2World, tmp_path: Path) -> Callable[..., EC2Backend]:
    """Make a backend on the region. What is synced is the business of other tests."""

    def make(image: str | None = IMAGE, **arguments: Any) -> EC2Backend:
        return EC2Backend(image, **{
            "region": REGION, "endpoint_url": ec2.url, "host": "127.0.0.1", "python": sys.executable, "sync": None,
            "instance_types": ["c7i.large"], "journal": tmp_path / "journal",
            # Instances have no other way to the functions of tests.
            "env": {"PYTHONPATH": str(Path.cwd())}, **arguments,
        })  # fmt: skip

    return make
