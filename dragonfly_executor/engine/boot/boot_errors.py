"""The errors of boots that fail."""

from __future__ import annotations

import copy

from dragonfly_executor import errors
from dragonfly_executor.serialization import exceptions
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Node
    from dragonfly_executor.core.capacity import Capacity, Requirements
    from dragonfly_executor.engine.runner_connection import RunnerLink

SHORTAGES = (ImportError, MemoryError, OSError, RuntimeError)
"""Errors when there is no memory, no descriptor, or (RuntimeError) no thread for the link to a node."""


def as_boot_error(error: BaseException, phase: str = "create") -> errors.BootError:
    """Return a `BootError` for an error of a backend, or for the end of a link, during a boot.

    That is the error itself if it is a `BootError` with all attributes that a pool reads. Its class may be third-party
    code.
    """
    if isinstance(error, errors.BootError) and _is_whole(error):
        return error
    name = exceptions.qualified_name(type(error)).rpartition(".")[2]
    boot_error = errors.BootError(f"{name}: {exceptions.text_of(error)}", phase)
    boot_error.__cause__ = error
    return boot_error


def copy_of(error: BaseException) -> BaseException:
    """Return an equal error for another boot. Boots add their output and attempts to their errors."""
    try:
        copied = copy.copy(error)
    except Exception:  # the class may be third-party code, with a constructor of its own
        copied = as_boot_error(error) if not isinstance(error, errors.BootError) else _plain_copy(error)
    copied.__cause__ = error.__cause__
    return copied


def _plain_copy(error: errors.BootError) -> errors.BootError:
    return errors.BootError(exceptions.text_of(error), error.phase, final=error.final)


def no_outcome(backend: str) -> errors.BootError:
    """Return the error of a boot of which `Backend.boot_many` has yielded no outcome."""
    return errors.BootError(f"the {backend} backend was asked for several nodes at once, and did not return this one")


def _is_whole(error: errors.BootError) -> bool:
    """Return True if the error has all attributes of a `BootError`, so that none raises on the engine thread."""
    try:
        str(error)
        error.attempts = error.attempts
        error.output = error.output
        return isinstance(error.phase, str) and isinstance(error.final, bool)
    except Exception:
        return False


def output_of(node: Node) -> str:
    """Return the last output of a node, or "" if its `output` raises. The node's class may be third-party code."""
    try:
        return node.output()
    except Exception:
        return ""


def too_small(runner: str, required: Requirements, capacity: Capacity) -> errors.BootError:
    """Return the error of a boot whose runner has less than the calls that wait for it require."""
    return errors.BootError(
        f"{runner} has {capacity}, and the calls that wait for it require {required}:"
        " have the backend boot larger nodes, or require less",
        "handshake",
    )


def no_thread(timeout: float, hung: int) -> errors.BootTimeoutError:
    """Return the error of a boot that no thread took within `timeout` seconds, because `hung` other boots hang."""
    return errors.BootTimeoutError(f"no thread was free within {timeout:g} s: the backend blocks in {hung} other boots")


def no_listener(timeout: float) -> errors.BootTimeoutError:
    """Return the error of a boot for which the listener for dial-back was not open within `timeout` seconds."""
    return errors.BootTimeoutError(f"the parent did not listen for runners within {timeout:g} s")


def no_node(backend: str, timeout: float, *, is_requested: bool) -> errors.BootTimeoutError:
    """Return the error of a boot that has no node within `timeout` seconds.

    Args:
        backend: the backend's name.
        timeout: seconds that the boot had.
        is_requested: whether the backend has asked for the node.
    """
    if is_requested:
        return errors.BootTimeoutError(f"the {backend} backend returned no node within {timeout:g} s")
    return errors.BootTimeoutError(
        f"the files of this machine that a runner needs were not read within {timeout:g} s", "sync"
    )


def no_runner(link: RunnerLink, timeout: float, refusal: errors.RunnerAuthError | None) -> errors.BootTimeoutError:
    """Return the error of a boot whose runner was not up within `timeout` seconds.

    Args:
        link: the link to the runner.
        timeout: seconds that the boot had.
        refusal: why the last connection was refused; perhaps it came from this runner.
    """
    progress = link.file_updates.progress
    if progress is not None:
        phase, how_far = progress
        return errors.BootTimeoutError(f"{link.name} was not ready within {timeout:g} s: {how_far}", phase)
    what, phase = ("say hello", "handshake") if link.descriptor() >= 0 else ("dial back", "connect")
    error = errors.BootTimeoutError(f"{link.name} did not {what} within {timeout:g} s", phase)
    error.__cause__ = refusal
    return error
