"""How a process ended, in the words of an error."""

from __future__ import annotations

import signal


def describe_exit(exit_code: int | None, signal_number: int | None) -> str:
    """Return how a process ended, in words; of both numbers one may be None, or both."""
    if signal_number is not None:
        try:
            name = signal.Signals(signal_number).name
        except ValueError:
            name = f"signal {signal_number}"
        return f"was killed by {name}"
    return "ended for an unknown reason" if exit_code is None else f"exited with status {exit_code}"
