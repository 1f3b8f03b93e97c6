"""Clocks that are wrong: nobody's machine is destroyed for it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.machines import FlyMachine
from dragonfly_executor.backends.fly.settings import APIAccess
from dragonfly_executor.backends.fly.sweep import Sweeper
from dragonfly_executor.backends.fly.token import APIToken
from dragonfly_executor.backends.owner import Liveness
from tests.backends.fly.conftest import MakeBackend
from tests.backends.fly.test_leaks import elsewhere, label
from tests.support.helpers import PATIENCE

HOUR = 3600
YEAR = 365 * 24 * HOUR


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose local time is half a day ahead."""
    with monkeypatch.context() as there:
        there.setenv("TZ", "Etc/GMT-12")
        time.tzset()
        yield
    time.tzset()


def created(text: str) -> float | None:
    machine = FlyMachine.read({"id": "7811", "created_at": text})
    assert machine is not None
    return machine.created


def test_a_time_without_a_zone_is_not_the_local_one(far_east: None) -> None:
    assert created("2026-11-24T18:00:00") == created("2026-11-24T18:00:00Z") == 1795543200.0


def test_a_time_that_nobody_has_set_is_none() -> None:
    """What Fly's API is written in says the year 1: by that every machine would have had its time."""
    assert created("0001-01-01T00:00:00Z") is None


def judged(date: str | None, here: float, monkeypatch: pytest.MonkeyPatch, **written: Any) -> Liveness:
    """What becomes of a machine of somebody who cannot be asked after; `here` is how far this clock is off."""
    now = time.time()
    said = {
        "id": "7811", "name": "dragonfly-x", "state": "started",
        "created_at": datetime.fromtimestamp(now - HOUR, UTC).isoformat(),
        "config": {"metadata": label(owner=elsewhere(), expires=int(now) + HOUR, **written).encode()},
    }  # fmt: skip
    headers = {} if date is None else {"date": date}
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, stream=httpx.ByteStream(json.dumps([said]).encode()), headers=headers)
    )
    api = MachinesAPI(APIAccess("media", APIToken("fm2_canary"), "http://fly.invalid"), transport)
    monkeypatch.setattr("dragonfly_executor.backends.fly.sweep.time", Clock(now + here))
    (found,) = Sweeper(api, None).look(Deadline(PATIENCE))
    return found.liveness


class Clock:
    """A module `time` that is wrong."""

    def __init__(self, now: float) -> None:
        self._now = now

    def time(self) -> float:
        return self._now


@pytest.mark.parametrize("here", [-50 * YEAR, -HOUR, 0, 10 * YEAR], ids=["behind", "an-hour-off", "right", "ahead"])
def test_a_machine_that_has_time_left_is_left_alone(here: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's clock says, as long as Fly's is right."""
    date = format_datetime(datetime.now(UTC), usegmt=True)
    assert judged(date, here, monkeypatch, lifetime=2 * HOUR) is Liveness.UNKNOWN


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "soon", "", None])
def test_a_date_that_is_nonsense_is_no_end_of_a_machine(date: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's, for instance, whose clock has lost its battery."""
    assert judged(date, 0, monkeypatch, lifetime=2 * HOUR) is Liveness.UNKNOWN


@pytest.mark.parametrize("here", [-HOUR, 0, 10 * YEAR], ids=["an-hour-off", "right", "ahead"])
def test_a_machine_whose_time_is_over_goes(here: float, monkeypatch: pytest.MonkeyPatch) -> None:
    date = format_datetime(datetime.now(UTC), usegmt=True)
    assert judged(date, here, monkeypatch, lifetime=HOUR // 2) is Liveness.GONE


@pytest.mark.parametrize("lifetime", [float("inf"), 1e16, timedelta.max])
def test_a_lifetime_has_an_end(make_backend: MakeBackend, lifetime: Any) -> None:
    """It is written on the machine: one that cannot be read there would have nobody find the machine."""
    with pytest.raises(ValueError, match="max_lifetime must be 315360000 seconds at most"):
        make_backend(max_lifetime=lifetime)
