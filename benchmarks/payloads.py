"""The calls that are measured. Runners and processes import this module, so it imports little."""

import time


def nothing(value: object = None) -> object:
    """Do nothing: the cheapest call."""
    return value


def rest(seconds: float) -> None:
    """Sleep."""
    time.sleep(seconds)


def pass_gate(path: str) -> bytes:
    """Wait for a byte of a FIFO."""
    with open(path, "rb", buffering=0) as gate:
        return gate.read(1)
