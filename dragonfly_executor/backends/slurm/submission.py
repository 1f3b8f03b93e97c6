"""The batch script of a job, or of an array of jobs, and the environment that brings each runner its token."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dragonfly_executor.backends.slurm.options import Option
from dragonfly_executor.protocol.parent import VARIABLE, Parent

NOTICE = 30
"""Seconds before a job's time limit at which Slurm sends SIGTERM to its runner. The runner gives its calls 25 s."""


def own_options(name: str, comment: str, logs: str, count: int) -> dict[str, Option]:
    """Return the options of ``sbatch`` that the backend sets itself.

    Args:
        name, comment: the job's. All elements of an array have the same.
        logs: the folder for the output.
        count: number of elements of the array; 1 for a job that is no array.
    """
    array: dict[str, Option] = {} if count == 1 else {"array": f"0-{count - 1}"}
    return {
        **array,
        "job_name": name,
        "comment": comment,
        # As the job's id is written elsewhere: %j is another number for the elements of an array.
        "output": f"{logs}/%j.log" if count == 1 else f"{logs}/%A_%a.log",
        "export": "ALL",
        "no_requeue": True,
        "signal": f"B:TERM@{NOTICE}",
    }


def environment(parents: Sequence[Parent]) -> dict[str, str]:
    """Return the variables with the descriptions of these runners' parent, which hold the runners' tokens.

    Only this user sees a job's environment. All elements of an array get the same environment, so `script` removes the
    other elements' entries from it.
    """
    if len(parents) == 1:
        return {VARIABLE: parents[0].encode()}
    return {f"{VARIABLE}_{index}": parent.encode() for index, parent in enumerate(parents)}


def script(command: Sequence[str], setup: str, count: int) -> str:
    """Return the batch script.

    Args:
        command: the command that starts the runner.
        setup: lines of shell for the start of the job.
        count: number of elements of the array; 1 for a job that is no array.
    """
    lines = ["#!/bin/sh"]
    if count > 1:
        # First of all: processes that `setup` starts must not see the tokens of the other elements.
        lines += [
            f'eval "{VARIABLE}=\\$' + f'{VARIABLE}_$SLURM_ARRAY_TASK_ID"',
            f"export {VARIABLE}",
            f"unset {' '.join(f'{VARIABLE}_{index}' for index in range(count))}",
        ]
    # exec: Slurm's SIGTERM goes to the batch shell, which has to be the runner.
    return "\n".join([*lines, setup, f"exec {shlex.join(command)}", ""])
