"""The exit of a process, described for error texts."""

from __future__ import annotations

from dragonfly_executor.util.plain_signal import name_of


def describe_exit(exit_code: int | None, signal_number: int | None) -> str:
    """Return a description of a process's exit, for use in an error text.

    Args:
        exit_code: exit status of the process, or None.
        signal_number: signal that killed the process, or None; it takes precedence over `exit_code`.
    """
    if signal_number is not None:
        return f"was killed by {name_of(signal_number) or f'signal {signal_number}'}"
    return "ended for an unknown reason" if exit_code is None else f"exited with status {exit_code}"
