"""Creating: exactly one machine a boot, whatever becomes of the answers, or an error that says why there is none."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dragonfly_executor import BootError, BootTimeoutError, FlyBackend
from dragonfly_executor.backends.fly import creation
from tests.backends.fly.boots import ASLEEP_CONFIG, GivenUpInAPause, boot, nothing_is_left, request
from tests.backends.fly.conftest import MakeBackend
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Reply
from tests.support.fly_simulator.faults import http_date, rate_limited
from tests.support.fly_simulator.simulator import Simulator


@pytest.fixture
def backend(make_backend: MakeBackend) -> FlyBackend:
    return make_backend(machine_config=ASLEEP_CONFIG, region=["cdg", "lhr"])


def entries(backend: FlyBackend) -> list[Any]:
    assert backend.journal is not None
    return backend.journal.entries()


def body_of(call: Any) -> Any:
    """What was asked for, also where the request was not carried out."""
    return json.loads(call.raw)


def boots_one(fly: Simulator, backend: FlyBackend, timeout: float = 20.0) -> None:
    """A boot gives a machine, the only one; the journal knows it, and afterwards nothing does."""
    node = boot(backend, timeout)
    (machine,) = fly.world.booted
    assert node.machine_id == machine.id
    (entry,) = entries(backend)
    assert (entry.name, entry.machine_id, entry.abandoned) == (machine.name, machine.id, False)
    node.stop()
    nothing_is_left(fly, backend)


def test_it_is_written_down_before_fly_is_asked(on_fly: Simulator, backend: FlyBackend) -> None:
    """And the machine says whose it is."""
    seen: list[Any] = []
    on_fly.faults.on("create", before=lambda call: seen.extend([entries(backend), body_of(call)]))
    node = boot(backend)
    (entry,), body = seen
    assert body["name"] == entry.name
    assert entry.machine_id is None
    metadata = on_fly.machine().metadata
    assert entry.label.encode().items() <= metadata.items()
    assert float(metadata["dragonfly_expires"]) == pytest.approx(time.time() + 30 + 86400 + 300, abs=60)
    node.stop()


def test_what_cannot_be_written_down_is_not_asked_for(
    on_fly: Simulator, backend: FlyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BootError, match="No space left"):
        boot(backend)
    monkeypatch.undo()
    assert on_fly.history.calls == []


# -- rate --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_after", [None, "0", "date", "3600", "soon"])
def test_too_many_requests_are_asked_again(on_fly: Simulator, backend: FlyBackend, retry_after: str | None) -> None:
    """An absurd header is not obeyed: the boot would not end in time."""
    header = http_date(time.time() + 1) if retry_after == "date" else retry_after
    on_fly.faults.on("create", times=2, reply=rate_limited(header))
    boots_one(on_fly, backend)
    assert on_fly.history.statuses("create") == [429, 429, 200]


def test_a_sane_retry_after_is_obeyed(on_fly: Simulator, backend: FlyBackend) -> None:
    on_fly.faults.on("create", reply=rate_limited("1"))
    boots_one(on_fly, backend)
    first, second = on_fly.history.of("create")
    assert second.at - first.at >= 0.95


def test_eight_at_once_are_paced(on_fly: Simulator, backend: FlyBackend) -> None:
    """Reference 5.3: few or no 429s."""
    with ThreadPoolExecutor(8) as threads:
        nodes = list(threads.map(lambda number: boot(backend, number=number), range(8)))
        statuses = on_fly.history.statuses("create")
        assert statuses.count(200) == 8
        # Five would be refused, and some of them again. Requests do not take equally long to get there.
        assert statuses.count(429) <= 2
        list(threads.map(lambda node: node.stop(), nodes))
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize("retry_after", [None, "30"])
def test_without_end_it_ends_with_the_boot(on_fly: Simulator, backend: FlyBackend, retry_after: str | None) -> None:
    """Also where Fly asks for more time than a boot has."""
    on_fly.faults.on("create", times=math.inf, reply=rate_limited(retry_after))
    with pytest.raises(
        BootTimeoutError, match=r"Fly created no machine within the boot timeout.*429.*rate limit exceeded"
    ) as caught:
        boot(backend, 1.0)
    assert caught.value.phase == "create"
    assert "fly-request-id" in str(caught.value)
    nothing_is_left(on_fly, backend)


# -- room --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "full",
    [errors.no_candidate_host(), errors.no_capacity(), errors.over_quota("o", "cdg", 9), errors.volume_host_full()],
    ids=["422", "409", "403-quota", "412"],
)
def test_a_region_without_room_is_left_for_the_next(on_fly: Simulator, backend: FlyBackend, full: Any) -> None:
    on_fly.world.full["cdg"] = full
    boots_one(on_fly, backend)
    assert [body_of(call)["region"] for call in on_fly.history.of("create")] == ["cdg", "lhr"]
    assert on_fly.world.booted[0].region == "lhr"


@pytest.mark.parametrize("full", [errors.host_full(), errors.host_full("memory"), errors.host_disabled()], ids=str)
def test_a_full_host_is_tried_again_in_the_same_region(on_fly: Simulator, backend: FlyBackend, full: Any) -> None:
    on_fly.faults.on("create", times=2, reply=full)
    boots_one(on_fly, backend)
    assert [body_of(call)["region"] for call in on_fly.history.of("create")] == ["cdg"] * 3


def test_hosts_that_stay_full_are_a_region_without_room(on_fly: Simulator, backend: FlyBackend) -> None:
    on_fly.world.full["cdg"] = errors.host_full()
    boots_one(on_fly, backend)
    regions = [body_of(call)["region"] for call in on_fly.history.of("create")]
    # On a busy machine an answer may come too late, and its request is repeated.
    assert (regions[:3], {*regions[3:]}) == (["cdg"] * 3, {"lhr"})


def test_without_room_anywhere_the_error_names_regions_and_size(on_fly: Simulator, backend: FlyBackend) -> None:
    on_fly.world.full |= {"cdg": None, "lhr": errors.no_capacity()}
    with pytest.raises(BootError) as caught:
        boot(backend)
    text = str(caught.value)
    assert "performance-2x with 4096 MB" in text
    assert "cdg: creating a machine: HTTP 422: could not find a candidate host" in text
    assert "lhr: creating a machine: HTTP 409: aborted: no capacity" in text
    assert not isinstance(caught.value, BootTimeoutError)
    assert not caught.value.final
    nothing_is_left(on_fly, backend)


# -- no ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        errors.payment_needed(),
        errors.invalid("guest"),
        errors.unauthorized(),
        errors.forbidden("media"),
        errors.no_app(),
    ],
    ids=str,
)
def test_a_no_is_passed_on_at_once(on_fly: Simulator, backend: FlyBackend, error: errors.ApiError) -> None:
    on_fly.faults.on("create", times=math.inf, reply=error)
    with pytest.raises(BootError) as caught:
        boot(backend)
    assert error.body["error"] in str(caught.value)
    assert "fly-request-id" in str(caught.value)
    assert on_fly.token not in str(caught.value) + repr(caught.value.__cause__)
    # Payment is asked for where there are too many machines: there may be fewer.
    assert caught.value.final == (error.status != 422)
    assert len(on_fly.history.calls) == 1
    nothing_is_left(on_fly, backend)


def test_a_token_that_is_answered_with_is_not_shown(on_fly: Simulator, backend: FlyBackend) -> None:
    """Some servers say what they were asked."""
    on_fly.faults.on("create", reply=Reply(400, {"error": f"bad header: FlyV1 {on_fly.token}"}))
    with pytest.raises(BootError, match=r"bad header: \.\.\.") as caught:
        boot(backend)
    assert on_fly.token not in str(caught.value)


def test_an_image_that_is_not_there_is_asked_for_some_times(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creation, "PAUSE_ON_MISSING_IMAGE", 0.0)
    monkeypatch.setattr(creation, "TRIES_ON_MISSING_IMAGE", 1)
    with pytest.raises(BootError, match="MANIFEST_UNKNOWN"):
        boot(make_backend(image="registry.fly.io/media:nowhere"))
    assert len(on_fly.history.calls) == 2


def test_an_image_that_was_pushed_just_now_is_waited_for(
    on_fly: Simulator, backend: FlyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference 3.1: for some seconds it is refused."""
    monkeypatch.setattr(creation, "PAUSE_ON_MISSING_IMAGE", 0.0)
    refusal = errors.invalid("failed to get manifest registry.fly.io/media:x: MANIFEST_UNKNOWN", 400)
    on_fly.faults.on("create", times=1, reply=refusal)
    boots_one(on_fly, backend)
    assert len(on_fly.history.of("create")) == 2


# -- doubt -------------------------------------------------------------------------------------------------------------

LOST: dict[str, dict[str, Any]] = {
    "cut": {"cut": True},
    "reset": {"reset": True},
    "truncated": {"truncate": 20},
    "no-json": {"change": lambda body: "<html>ok</html>"},
    "no-machine": {"change": lambda body: []},
    "408": {"reply": errors.flaps_timed_out(), "commit": True},
    **{str(status): {"reply": errors.platform(status, html=True), "commit": True} for status in (500, 502, 503, 504)},
    "busy-proxy": {"reply": Reply(502, None), "commit": True},
}


@pytest.mark.parametrize("how", LOST)
def test_an_answer_that_was_lost_costs_no_second_machine(on_fly: Simulator, backend: FlyBackend, how: str) -> None:
    """Reference 5.3: exactly one machine exists, and it is adopted."""
    on_fly.faults.on("create", **LOST[how])
    boots_one(on_fly, backend)
    names = {body_of(call)["name"] for call in on_fly.history.of("create")}
    assert len(names) == 1
    assert on_fly.history.statuses("create")[1:] == [409]


@pytest.mark.parametrize("how", ["cut", "reset", "408", "502", "503"])
def test_what_was_not_carried_out_is_asked_for_again(on_fly: Simulator, backend: FlyBackend, how: str) -> None:
    on_fly.faults.on("create", times=2, **{**LOST[how], "commit": False})
    boots_one(on_fly, backend)


def test_lists_that_lie_are_not_needed(on_fly: Simulator, backend: FlyBackend) -> None:
    """Reference 1.6: the answer to the same name says which machine it is."""
    on_fly.faults.on("create", cut=True)
    on_fly.faults.on("list", times=math.inf, reply=Reply(200, []))
    boots_one(on_fly, backend)


def test_a_name_that_is_taken_nobody_says_by_whom_is_looked_for(on_fly: Simulator, backend: FlyBackend) -> None:
    """Reference 1.5: a body may have a code, and a text that says nothing."""
    on_fly.faults.on("create", cut=True)
    on_fly.faults.on("create", nth=2, reply=errors.ApiError(422, "Validation failed", "name_taken"))
    boots_one(on_fly, backend)
    assert on_fly.history.statuses("create") == [None, 422]


@pytest.mark.parametrize("last", [errors.payment_needed(), errors.no_candidate_host(), rate_limited()], ids=str)
def test_what_is_refused_later_leaves_no_doubt_about_itself_alone(
    on_fly: Simulator, make_backend: MakeBackend, last: errors.ApiError
) -> None:
    """What came of the first try is destroyed all the same."""
    backend = make_backend(machine_config=ASLEEP_CONFIG, region="cdg")
    on_fly.faults.on("create", reply=errors.platform(502), commit=True)
    on_fly.faults.on("create", nth=2, times=math.inf, reply=last)
    with pytest.raises(BootError, match=f"HTTP {last.status}"):
        boot(backend, 1.5)
    assert len(on_fly.world.booted) == 1
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize("listed", ["truth", "empty", "broken"])
def test_what_stays_in_doubt_is_destroyed_or_written_down(
    on_fly: Simulator, backend: FlyBackend, listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fly carries it out and never says so. That a list is empty is no proof."""
    on_fly.faults.on("create", times=math.inf, reply=errors.platform(502), commit=True)
    if listed != "truth":
        monkeypatch.setattr("dragonfly_executor.backends.fly.boot.UNDO_TIMEOUT", 0.6)
        replies = {"empty": Reply(200, []), "broken": Reply(500, "<html>")}
        on_fly.faults.on("list", times=math.inf, reply=replies[listed])
    with pytest.raises(BootTimeoutError, match="502"):
        boot(backend, 2.0)
    if listed == "truth":
        assert len(on_fly.world.booted) == 1
        nothing_is_left(on_fly, backend)
        return
    (machine,), (entry,) = on_fly.history.left, entries(backend)
    assert (entry.name, entry.abandoned) == (machine.name, True)
    on_fly.faults.clear()
    swept = backend.sweep()
    assert [one.name for one in swept.destroyed] == [machine.name]
    nothing_is_left(on_fly, backend)


def test_somebody_elses_machine_is_left_alone(on_fly: Simulator, backend: FlyBackend) -> None:
    """Its name is the one of this boot, and the boot that it says it is of is not."""

    def take_the_name(call: Any) -> None:
        body = body_of(call)
        metadata = {**body["config"]["metadata"], "dragonfly_boot": "another"}
        config = {"image": on_fly.image, "metadata": metadata}
        add = on_fly.world.add
        on_fly.do(lambda: add("media", body["name"], "cdg", config, "::1", by_request=False))

    on_fly.faults.on("create", before=take_the_name)
    with pytest.raises(BootError, match="it is left alone") as caught:
        boot(backend)
    assert not caught.value.final, "the next boot has another name"
    assert [machine.state for machine in on_fly.world.machines] == ["started", "created"]
    assert on_fly.history.of("destroy") == []
    assert entries(backend) == []


def test_whose_machine_it_is_may_be_hidden(on_fly: Simulator, backend: FlyBackend) -> None:
    """Its host cannot be reached, so its metadata is not shown: then it is not adopted, and not forgotten."""
    on_fly.faults.on("create", cut=True)
    hidden = {"config": None, "incomplete_config": None, "host_status": "unreachable"}
    on_fly.faults.on("get", times=math.inf, change=lambda body: {**body, **hidden})
    on_fly.faults.on("list", times=math.inf, change=lambda body: [{**one, **hidden} for one in body])
    with pytest.raises(BootError, match="its metadata is unknown, so it may belong to another boot"):
        boot(backend)
    (entry,) = entries(backend)
    assert entry.abandoned
    on_fly.faults.clear()
    backend.sweep()
    nothing_is_left(on_fly, backend)


# -- what takes long ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
def test_a_slow_answer_is_waited_for(on_fly: Simulator, backend: FlyBackend, late: bool) -> None:
    on_fly.timing.create_latency = 1.0
    on_fly.switches.create_commits_late = late
    boots_one(on_fly, backend)
    assert on_fly.history.statuses("create") == [200]


def test_an_answer_that_never_comes_ends_with_the_boot(on_fly: Simulator, backend: FlyBackend) -> None:
    """And what came of it is gone."""
    on_fly.faults.on("create", hang=True)
    with pytest.raises(BootTimeoutError, match="ReadTimeout"):
        boot(backend, 0.7)
    assert len(on_fly.world.booted) == 1
    nothing_is_left(on_fly, backend)


def test_a_boot_that_nobody_wants_any_more_does_not_wait(on_fly: Simulator, backend: FlyBackend) -> None:
    """It would for a minute, and then for its turn."""
    on_fly.faults.on("create", times=math.inf, reply=rate_limited("60"))
    with pytest.raises(BootError, match="429"):
        backend.boot(request(3600.0, given_up=GivenUpInAPause()))
    assert len(on_fly.history.calls) == 1


@pytest.mark.parametrize("fault", [{"cut_after": True}], ids=["keep-alive"])
def test_a_connection_that_died_meanwhile_is_no_trouble(on_fly: Simulator, backend: FlyBackend, fault: Any) -> None:
    on_fly.faults.on("*", times=math.inf, **fault)
    with backend.api:
        boots_one(on_fly, backend)


@pytest.mark.parametrize(
    "host",
    ["http://127.0.0.1:1", "http://nowhere.invalid", "https://{fly}"],
    ids=["refused", "dns", "tls"],
)
def test_an_api_that_cannot_be_reached_is_tried_until_the_boot_ends(
    on_fly: Simulator, make_backend: MakeBackend, host: str
) -> None:
    backend = make_backend(host=host.format(fly=on_fly.url.removeprefix("http://")))
    with pytest.raises(BootTimeoutError, match="ConnectError"):
        boot(backend, 0.5)
    assert entries(backend) == []
    assert on_fly.history.calls == []


@pytest.mark.parametrize("form", ["seconds", "date", None])
@pytest.mark.parametrize("plain", [False, True])
def test_flys_own_limits_are_kept_in_either_form(
    on_fly: Simulator, backend: FlyBackend, form: Any, plain: bool
) -> None:
    """Somebody else asks as well, so pacing alone does not do. Reference 7: forms are uncertain."""
    on_fly.switches.retry_after, on_fly.switches.rate_body_is_plain = form, plain
    on_fly.rates.of["create"] = (2.0, 1.0)
    on_fly.faults.on("create", reply=errors.platform(503))
    boots_one(on_fly, backend)
