"""The Machines API as the backend asks it: what it sends, what it keeps, and what it does not let through."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import httpx
import pytest

from dragonfly_executor import errors as public
from dragonfly_executor.backends.base import CancelToken
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.errors import FlyAPIError
from dragonfly_executor.backends.fly.http import HttpConnections
from dragonfly_executor.backends.fly.responses import ResponseKind
from dragonfly_executor.backends.fly.settings import APIAccess
from dragonfly_executor.backends.fly.token import APIToken
from dragonfly_executor.backends.label import KIND, RUNNER
from tests.backends.fly.asking import Asker
from tests.backends.fly.boots import GivenUpInAPause
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Reply
from tests.support.fly_simulator.faults import rate_limited
from tests.support.fly_simulator.simulator import Simulator

ACCESS = APIAccess("media", APIToken("fm2_canary"), "http://fly.invalid")
OURS = {"metadata": {KIND: RUNNER}}


@pytest.fixture
def api(on_fly: Simulator) -> MachinesAPI:
    return MachinesAPI(APIAccess.find(on_fly.environment))


def deadline(seconds: float = 10.0) -> Deadline:
    return Deadline(seconds)


def played(handler: Any) -> MachinesAPI:
    """An API that is a function."""
    return MachinesAPI(ACCESS, httpx.MockTransport(handler))


# -- what it sends -----------------------------------------------------------------------------------------------------


def test_every_request_says_who_asks_and_comes_back_to_the_same_host() -> None:
    """Reference 1.1: the cookie leads to the host that knows best, also after the connections were closed."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        cookie = {"set-cookie": "fly_flaps_affinity=node-7; Path=/v1/apps/media; HttpOnly"}
        return httpx.Response(200, stream=httpx.ByteStream(b'{"id": "7811"}'), headers=cookie)

    api = played(answer)
    for _ in range(2):
        api.get("7811", deadline())
    assert [request.headers["authorization"] for request in seen] == ["FlyV1 fm2_canary"] * 2
    assert [request.headers.get("cookie") for request in seen] == [None, "fly_flaps_affinity=node-7"]
    assert seen[0].headers["user-agent"].startswith("dragonfly-executor/")
    assert str(seen[0].url) == "http://fly.invalid/v1/apps/media/machines/7811"


def test_a_redirect_is_not_followed() -> None:
    """The token would go to somebody else."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return httpx.Response(307, stream=httpx.ByteStream(b""), headers={"location": "http://elsewhere.invalid/"})

    with pytest.raises(FlyAPIError, match="HTTP 307"):
        played(answer).get("7811", deadline())
    assert seen == ["fly.invalid"]


def test_a_wait_asks_for_whole_seconds_that_fly_takes(on_fly: Simulator, api: MachinesAPI, asker: Asker) -> None:
    """Reference 1.5: it refuses what is not within 1 and 60."""
    machine = asker.created(metadata={KIND: RUNNER})
    for seconds in (0.01, 1.5, 3600.0):
        api.wait(machine.id, ("destroyed", "failed"), deadline(seconds))
    assert [call.first("timeout") for call in on_fly.history.of("wait")] == ["1", "1", "10"]
    assert 400 not in on_fly.history.statuses("wait")


def test_a_wait_for_what_never_comes_is_no_error(on_fly: Simulator, api: MachinesAPI, asker: Asker) -> None:
    on_fly.timing.second = 0.01
    machine = asker.created("sleeper", "import signal; signal.pause()")
    assert api.wait(machine.id, ("destroyed",), deadline()) is ResponseKind.NOT_YET
    assert api.wait("0" * 14, ("destroyed",), deadline()) is ResponseKind.NOT_FOUND


# -- what it believes --------------------------------------------------------------------------------------------------


def test_a_list_is_filtered_again_here(on_fly: Simulator, api: MachinesAPI, asker: Asker) -> None:
    """What is found may be destroyed: that Fly has filtered is not taken on trust."""
    asker.created("other", "import signal; signal.pause()")
    ours = asker.created("ours", "import signal; signal.pause()", **OURS)
    everything = [asker.get(machine) for machine in on_fly.world.machines]
    hidden = {**everything[-1], "config": None, "incomplete_config": None}
    strange = [hidden, {"id": 1}, None, "x", {"id": "1", "config": []}]
    on_fly.faults.on("list", change=lambda body: [*everything, *strange])
    assert [machine.id for machine in api.runners(deadline())] == [ours.id]
    assert api.runners(deadline(), dragonfly_boot="another") == []


@pytest.mark.parametrize(
    "trouble",
    [
        {"reply": rate_limited("0")},
        {"reply": errors.platform(500)},
        {"reply": errors.platform(503, html=True)},
        {"reply": errors.flaps_timed_out()},
        {"reply": Reply(200, "no json")},
        {"reply": Reply(200, {"error": "no list"})},
        {"truncate": 1},
        {"reset": True},
        {"cut": True},
    ],
    ids=["429", "500", "503", "408", "no-json", "no-list", "truncated", "reset", "cut"],
)
def test_questions_are_asked_until_there_is_an_answer(
    on_fly: Simulator, api: MachinesAPI, asker: Asker, trouble: dict[str, Any]
) -> None:
    machine = asker.created("ours", "import signal; signal.pause()", **OURS)
    for action in ("get", "list"):
        on_fly.faults.on(action, **trouble)
    found = api.get(machine.id, deadline())
    assert found is not None
    assert found.id == machine.id
    assert [one.id for one in api.runners(deadline())] == [machine.id]


def test_questions_end_with_the_patience_and_say_what_was_wrong(on_fly: Simulator, api: MachinesAPI) -> None:
    on_fly.faults.on("list", times=math.inf, reply=errors.platform(502))
    with pytest.raises(FlyAPIError, match="502") as caught:
        api.runners(deadline(0.5))
    assert caught.value.status == 502
    assert caught.value.verdict is ResponseKind.AMBIGUOUS
    assert caught.value.request_id.endswith("-cdg")
    assert caught.value.request_id in str(caught.value)
    assert isinstance(caught.value, public.DragonflyError)


def test_an_answer_says_more_than_that_there_was_no_time_for_another() -> None:
    given_up = CancelToken()
    answers = iter([httpx.Response(502, stream=httpx.ByteStream(b'{"error": "bad gateway"}'))])

    def answer(request: httpx.Request) -> httpx.Response:
        try:
            return next(answers)
        except StopIteration:
            given_up.set()
            raise httpx.ReadTimeout("timed out") from None

    with pytest.raises(FlyAPIError, match="HTTP 502: bad gateway"):
        played(answer).get("7811", Deadline(3600.0, given_up))


def test_a_no_is_final(on_fly: Simulator) -> None:
    stranger = MachinesAPI(APIAccess.find({**on_fly.environment, "FLY_API_TOKEN": "fm2_stranger"}))
    with pytest.raises(FlyAPIError, match="token validation error") as caught:
        stranger.runners(deadline())
    assert "stranger" not in str(caught.value)
    assert len(on_fly.history.calls) == 1


def test_what_is_given_up_ends_at_once(on_fly: Simulator, api: MachinesAPI) -> None:
    given_up = GivenUpInAPause()
    on_fly.faults.on("get", times=math.inf, reply=rate_limited("59"))
    with pytest.raises(FlyAPIError, match="429"):
        api.get("7811", Deadline(3600.0, given_up))
    with pytest.raises(FlyAPIError, match="the request was cancelled before it was sent"):
        api.get("7811", Deadline(3600.0, given_up))
    assert len(on_fly.history.calls) == 1


# -- what it bounds ----------------------------------------------------------------------------------------------------


def test_an_answer_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragonfly_executor.backends.fly.http.MAX_BODY", 100_000)
    pieces: list[int] = []

    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Any:
            while True:
                pieces.append(1)
                yield b"x" * 10_000

    line = HttpConnections(ACCESS, httpx.MockTransport(lambda request: httpx.Response(200, stream=Endless())))
    reply = line.exchange("get", "7811", "GET", "/x", deadline(), timeout=5.0)
    assert (reply.status, reply.failure) == (0, "the answer is larger than 100000 bytes")
    assert len(pieces) == 11


def test_an_answer_that_trickles_ends_with_its_time() -> None:
    class Trickle(httpx.SyncByteStream):
        def __iter__(self) -> Any:
            while True:
                time.sleep(0.02)
                yield b"x"

    line = HttpConnections(ACCESS, httpx.MockTransport(lambda request: httpx.Response(200, stream=Trickle())))
    reply = line.exchange("get", "7811", "GET", "/x", deadline(), timeout=0.1)
    assert reply.failure == "the answer was not complete in time"


def test_what_is_packed_is_not_unpacked() -> None:
    """A few bytes may be gigabytes."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["accept-encoding"])
        return httpx.Response(200, stream=httpx.ByteStream(b"not gzip"), headers={"content-encoding": "gzip"})

    reply = HttpConnections(ACCESS, httpx.MockTransport(answer)).exchange(
        "get", "1", "GET", "/x", deadline(), timeout=5.0
    )
    assert (reply.status, seen) == (200, ["identity"])


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (httpx.ConnectError("x"), False),
        (httpx.ConnectTimeout("x"), False),
        (httpx.PoolTimeout("x"), False),
        (httpx.ReadTimeout("x"), True),
        (httpx.WriteTimeout("x"), True),
        (httpx.ReadError("x"), True),
        (httpx.RemoteProtocolError("x"), True),
        (httpx.TooManyRedirects("x"), True),
        (OSError("x"), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_error_of_the_library_comes_through(error: Exception, sent: bool) -> None:
    """And whether the request may have got there is told apart: only then is anything in doubt."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    reply = HttpConnections(ACCESS, httpx.MockTransport(fail)).exchange(
        "get", "1", "GET", "/x", deadline(), timeout=5.0
    )
    assert (reply.status, reply.sent) == (0, sent)
    assert reply.failure.startswith(type(error).__name__)


def test_the_token_is_in_no_log_line_and_no_description(
    on_fly: Simulator, api: MachinesAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 57. Of the HTTP library neither, at its most talkative."""
    with caplog.at_level(logging.DEBUG), api:
        api.get("7811", deadline())
        on_fly.faults.on("get", reset=True)
        api.get("7811", deadline())
        (connection,) = api._connections._idle
        shown = [
            repr(api),
            repr(api._connections),
            repr(vars(api)),
            repr(vars(api._connections)),
            repr(vars(connection)),
        ]
        shown.append(repr(connection.client.headers))
    assert "httpcore" in {record.name.partition(".")[0] for record in caplog.records}
    for text in (*shown, caplog.text):
        assert on_fly.token not in text
