"""Checks of the user's options for ``sbatch``, and their command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TypeAlias

Option: TypeAlias = str | int | float | bool | None
Minutes: TypeAlias = str | int | timedelta | None

OWN = frozenset({
    "array", "comment", "error", "export", "export_file", "job_name", "no_requeue", "ntasks", "output", "parsable",
    "requeue", "signal", "test_only", "wait", "wrap",
})  # fmt: skip
"""Options that the backend sets itself. A user's value would break how it starts, finds and ends its jobs."""
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


def check_options(options: Mapping[str, Option]) -> dict[str, Option]:
    """Return the options of ``sbatch`` by their names with underscores, without those whose value is None.

    Raises:
        TypeError: a name or a value has the wrong type.
        ValueError: a name is not that of a long option, the backend sets this option itself, or a value holds a
            character that no option of ``sbatch`` takes.
    """
    found: dict[str, Option] = {}
    for name, value in options.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a Slurm option must be text, not {name!r}")
        key = name.removeprefix("--").replace("-", "_")
        if not _NAME.fullmatch(key) or len(key) < 2:
            raise ValueError(f"{name!r} is no long option of sbatch, such as 'constraint' or 'mem_per_cpu'")
        if key in OWN:
            raise ValueError(f"SlurmBackend sets the sbatch option --{key.replace('_', '-')} itself: leave it out")
        if value is not None:
            found[key] = _check_value(key, value)
    return found


def _check_value(name: str, value: Option) -> Option:
    if not isinstance(value, (str, int, float)):
        raise TypeError(f"the Slurm option {name} must be text, a number or a bool, not {value!r}")
    if isinstance(value, str) and (not value or not value.isprintable()):
        raise ValueError(f"the Slurm option {name} must be printable text, not {value!r}")
    return value


def command_line(options: Mapping[str, Option]) -> list[str]:
    """Return the words of these options for ``sbatch``: ``--name=value``, or ``--name`` if the value is True."""
    words = []
    for name, value in options.items():
        word = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(word)
        elif value is not False:
            words.append(f"{word}={value}")
    return words


def time_limit(time: Minutes) -> str | None:
    """Return the value of ``--time``. A number means minutes, as in Slurm; a `timedelta` is rounded up to seconds.

    Raises:
        TypeError: the time has the wrong type.
        ValueError: the time is not positive.
    """
    if time is None or isinstance(time, str):
        return time
    if isinstance(time, bool) or not isinstance(time, (int, timedelta)):
        raise TypeError(f"time must be minutes, text in one of Slurm's forms, or a timedelta, not {time!r}")
    seconds = time * 60 if isinstance(time, int) else -(-time // timedelta(seconds=1))
    if seconds <= 0:
        raise ValueError(f"time must be positive, not {time!r}")
    days, rest = divmod(seconds, 24 * 3600)
    return f"{days}-{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
