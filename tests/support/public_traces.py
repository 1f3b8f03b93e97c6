"""Public traces, if the folder with them is there: in `DRAGONFLY_TRACES`, or in ``../shared/data/traces``.

- AzureLLMInferenceTrace_conv.csv, _code.csv: Azure Public Dataset, 2023 (CC BY 4.0).
- Azure2021_200.csv: a sample of the Azure Functions trace of 2021, Azure Public Dataset (CC BY 4.0).
- lublin_256.swf: jobs of the Lublin-Feitelson model, in the Standard Workload Format.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from dragonfly_executor.simulation.trace import TraceCall

FOLDER = Path(os.environ.get("DRAGONFLY_TRACES") or Path(__file__).parents[2].parent / "shared" / "data" / "traces")
CONTEXT_TOKEN, GENERATED_TOKEN = 0.0003, 0.03
"""Seconds that a token takes: the trace has tokens alone."""


def llm(name: str) -> Iterator[TraceCall]:
    """Calls of a language model, as long as their tokens take."""
    with (FOLDER / name).open() as lines:
        for row in csv.DictReader(lines):
            arrival = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
            seconds = CONTEXT_TOKEN * int(row["ContextTokens"]) + GENERATED_TOKEN * int(row["GeneratedTokens"])
            yield TraceCall(arrival, seconds)


def functions(name: str) -> Iterator[TraceCall]:
    """Calls of cloud functions."""
    with (FOLDER / name).open() as lines:
        for row in csv.DictReader(lines):
            seconds = float(row["duration"])
            yield TraceCall(float(row["end_timestamp"]) - seconds, seconds)


def jobs(name: str) -> Iterator[TraceCall]:
    """Jobs of a batch system."""
    for line in (FOLDER / name).read_text().splitlines():
        if line and not line.startswith(";"):
            fields = line.split()
            yield TraceCall(float(fields[1]), float(fields[3]))


TRACES = {
    "AzureLLMInferenceTrace_conv.csv": llm,
    "AzureLLMInferenceTrace_code.csv": llm,
    "Azure2021_200.csv": functions,
    "lublin_256.swf": jobs,
}


def public_trace(name: str) -> list[TraceCall]:
    """Return the calls of a trace in order of arrival, the first at 0. Skips the test if the trace is not there."""
    if not (FOLDER / name).exists():
        pytest.skip(f"the trace {name} is not in {FOLDER}: set DRAGONFLY_TRACES to the folder that has it")
    calls = sorted(TRACES[name](name))
    return [call._replace(arrival=call.arrival - calls[0].arrival) for call in calls]
