"""Checks of the user's options for ``sbatch``, and their command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from math import ceil
from typing import TypeAlias

from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.errors import BootError

Option: TypeAlias = str | int | float | bool | None
Minutes: TypeAlias = str | int | timedelta | None

OWN = frozenset({
    "array", "comment", "error", "export", "export_file", "job_name", "no_requeue", "ntasks", "output", "parsable",
    "requeue", "signal", "test_only", "wait", "wrap",
})  # fmt: skip
"""Options that the backend sets itself. With a user's value, it cannot start, find and end its jobs."""
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_MEMORY = re.compile(r"(\d+)([KMGT]?)", re.IGNORECASE)


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


def meet(options: Mapping[str, Option], required: Requirements, labels: frozenset[str]) -> dict[str, Option]:
    """Return the options of a job that has what calls require. Other resources that the user's options ask for stay.

    Args:
        options: the user's options.
        required: what the calls require. A label is a feature of a node (``--constraint``).
        labels: labels of all nodes, which Slurm does not know.

    Raises:
        BootError: the user's options ask for memory or GPUs in a way that cannot be raised.
    """
    found = dict(options)
    if required.cpus:
        found["cpus_per_task"] = max(ceil(required.cpus), int(found.get("cpus_per_task") or 1))
    if required.gpus:
        names = ("gres", "gpus", "gpus_per_node", "gpus_per_task", "gpus_per_socket")
        _refuse(options, names, required, "leave the option out, so that each job asks for its GPUs")
        found["gres"] = f"gpu:{required.gpus}"
    if required.memory:
        mebibytes = -(-required.memory // 2**20)
        _refuse(options, ("mem_per_cpu", "mem_per_gpu"), required, "use mem= instead, which is for the job")
        found["mem"] = f"{max(mebibytes, _mebibytes(found.get('mem')))}M"
    if required.labels - labels:
        features = "&".join(sorted(required.labels - labels))
        constraint = found.get("constraint")
        found["constraint"] = features if constraint is None else f"({constraint})&{features}"
    return found


def _refuse(options: Mapping[str, Option], names: Iterable[str], required: Requirements, advice: str) -> None:
    """Raise if the user's options have one of these, which cannot be raised to what calls require.

    Raises:
        BootError: they have one.
    """
    for name in names:
        if options.get(name) is not None:
            text = f"the calls require {required}, and SlurmBackend has the option {name}={options[name]!r}"
            raise BootError(f"{text}: {advice}", "create", final=True)


def capacity_of(options: Mapping[str, Option], labels: frozenset[str]) -> Capacity:
    """Return the resources of a job with these options; only those that the options state.

    The runner cannot find it out everywhere: whether a job sees more than it asked for depends on Slurm's plugins.

    Args:
        options: the options.
        labels: features of its node.
    """
    gpus = 0
    for name in ("gres", "gpus", "gpus_per_node", "gpus_per_task"):
        for part in str(options.get(name) or "").split(","):
            if name != "gres" or part.partition(":")[0] == "gpu":
                count = part.rpartition(":")[2] if part != "gpu" else "1"
                gpus = max(gpus, int(count) if count.isdecimal() else 0)
    memory = _mebibytes(options.get("mem")) * 2**20
    return Capacity(float(options.get("cpus_per_task") or 1), gpus, memory, labels)


def _mebibytes(mem: Option) -> int:
    """Return the value of ``--mem`` in MiB. Without a unit it is in MiB (man 1 sbatch)."""
    matched = _MEMORY.fullmatch(str(mem or 0))
    if matched is None:
        return 0
    kibibytes = int(matched[1]) * int(1024 ** "KMGT".index((matched[2] or "M").upper()))
    return -(-kibibytes // 1024)
