"""The description of a runner's parent, for backends: the documented name of `protocol.parent`."""

from __future__ import annotations

from dragonfly_executor.protocol.parent import DEFAULT_MAX_DEPTH, MAX_DEPTH_VARIABLE, VARIABLE, Parent, max_depth

__all__ = ["DEFAULT_MAX_DEPTH", "MAX_DEPTH_VARIABLE", "VARIABLE", "Parent", "max_depth"]
