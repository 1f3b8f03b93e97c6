"""The pools, projects and programs of other tests."""

from __future__ import annotations

from tests.engine.conftest import make
from tests.processes.lifecycle.conftest import start
from tests.processes.sync.conftest import home, project, runner_bundle

__all__ = ["home", "make", "project", "runner_bundle", "start"]
