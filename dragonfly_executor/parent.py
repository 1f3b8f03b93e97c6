"""What a runner knows about who booted it, for backends: the documented name of `protocol.parent`."""

from __future__ import annotations

from dragonfly_executor.protocol.parent import DEFAULT_MAX_DEPTH, MAX_DEPTH_VARIABLE, VARIABLE, Parent, max_depth

__all__ = ["DEFAULT_MAX_DEPTH", "MAX_DEPTH_VARIABLE", "VARIABLE", "Parent", "max_depth"]
