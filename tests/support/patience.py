"""How long tests wait. This module imports nothing: functions that run in slots use it, and each slot imports anew."""

from __future__ import annotations

PATIENCE = 30.0
"""Seconds after which a test fails if an event has not come. The limit is generous: the machine may be busy."""
SOON = 5.0
"""Seconds for an event that the design promises within one second. The other seconds are for a busy machine."""
