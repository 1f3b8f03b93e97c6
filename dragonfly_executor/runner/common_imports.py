"""Modules of the standard library that most calls need and an agent does not.

The first slot of a runner is forked before they are loaded, so that a program whose first call waits for a first runner
does not wait for them. If its calls need one of them, it loads that module itself. All later slots share the agent's.
"""

from __future__ import annotations

from importlib import import_module

MODULES = ("enum", "signal", "re", "pickle", "json")


def load() -> None:
    """Load the modules. Without memory or descriptors for one of them, the slots load it when they need it."""
    for name in MODULES:
        try:
            import_module(name)
        except (ImportError, MemoryError, OSError):
            return
