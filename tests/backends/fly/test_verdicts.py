"""What answers mean, whatever they are: by body and status."""

from __future__ import annotations

import json
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_executor.backends.fly.machines import FlyMachine
from dragonfly_executor.backends.fly.responses import (
    MAX_RETRY_AFTER,
    MAX_TEXT,
    APIResponse,
    ResponseKind,
    classify,
    is_final,
    retry_after,
    taken_by,
)
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Reply as Answer

NOW = 1_700_000_000.0
HTML = b"<html><head><title>502</title><style>p {}</style></head><body><h1>Bad   Gateway</h1></body></html>"

KNOWN = [
    (errors.rate_limited(), ResponseKind.RATE),
    (errors.rate_limited(plain=True), ResponseKind.RATE),
    (errors.no_candidate_host(), ResponseKind.CAPACITY),
    (errors.no_capacity(), ResponseKind.CAPACITY),
    (errors.volume_host_full(), ResponseKind.CAPACITY),
    (errors.host_full(), ResponseKind.HOST_FULL),
    (errors.host_full("memory"), ResponseKind.HOST_FULL),
    (errors.host_full("IPs"), ResponseKind.HOST_FULL),
    (errors.host_disabled(), ResponseKind.HOST_FULL),
    (errors.ApiError(409, "governor policy blocked start"), ResponseKind.HOST_FULL),
    (errors.over_quota("o", "dfw", 1), ResponseKind.QUOTA),
    (errors.forbidden("media"), ResponseKind.FATAL),
    (errors.unauthorized(), ResponseKind.FATAL),
    (errors.payment_needed(), ResponseKind.FATAL),
    (errors.ApiError(422, "you have reached the machine limit of your plan"), ResponseKind.FATAL),
    (errors.invalid("guest"), ResponseKind.FATAL),
    (errors.name_taken("7811", "x"), ResponseKind.NAME_TAKEN),
    (errors.ApiError(422, "whatever", "name_taken"), ResponseKind.NAME_TAKEN),
    # FLAME's older picture: the code is trusted, the text is not asked.
    (errors.ApiError(412, "no text that is known", "insufficient_capacity"), ResponseKind.CAPACITY),
    (errors.ApiError(412, "failed_precondition: no capacity"), ResponseKind.CAPACITY),
    (errors.lease_held("7811", "somebody", "2026-01-01T00:00:00Z"), ResponseKind.CONFLICT),
    (errors.concurrent_update(), ResponseKind.CONFLICT),
    (errors.no_machine(), ResponseKind.NOT_FOUND),
    (errors.no_app(), ResponseKind.NOT_FOUND),
    (errors.flaps_timed_out(), ResponseKind.AMBIGUOUS),
    (errors.not_stopped(), ResponseKind.FATAL),
    *(
        (errors.platform(status, html=html), ResponseKind.AMBIGUOUS)
        for status in (500, 502, 503, 504)
        for html in (0, 1)
    ),
]


def reply_of(error: errors.ApiError) -> APIResponse:
    return APIResponse(error.status, Answer(error.status, error.body).encoded()[0])


@pytest.mark.parametrize(("error", "verdict"), KNOWN, ids=lambda value: str(value)[:60])
def test_what_fly_is_known_to_answer(error: errors.ApiError, verdict: ResponseKind) -> None:
    """Reference 1.5, each row."""
    assert classify(reply_of(error)) is verdict


NO_ROOM = [
    "could not find a candidate host",
    "failed_precondition: could not find capacity",
    "cannot find capacity for the machine",
    "unable to allocate resources for machine",
    "insufficient resources to create new machine with existing volume id 'vol_0'",
    "insufficient capacity in region dfw",
    "insufficient memory in region",
    "not enough capacity",
    "no available hosts in region ams",
    "out of capacity in fra",
    "lack of capacity",
    "no capacity",
    "region has no suitable host",
    "capacity is exhausted",
    "capacity not available",
    "failed to reserve room",
    "no capacity available in region ams",
    "no hosts found with room for it",
    "no capacity for performance-16x",
]
"""As texts say it without a code. Some of them are known; there are others."""
NOT_ABOUT_ROOM = [
    "Validation failed: region is invalid",
    "you have reached the machine limit of your plan",
    "unable to destroy machine, not currently stopped, suspended, failed or created",
    "insufficient permissions",
    "could not find image",
    "failed to get manifest registry.fly.io/media:x",
    "volume vol_0 not found",
    "no such region",
    "no host header",
    "no memory_mb given",
    "memory_mb is too low",
]


@pytest.mark.parametrize("status", [409, 412, 422])
@pytest.mark.parametrize("text", NO_ROOM)
def test_a_want_of_room_is_known_without_a_code(status: int, text: str) -> None:
    for written in (text, text.capitalize(), f"{text}."):
        assert classify(reply_of(errors.ApiError(status, written))) is ResponseKind.CAPACITY


@pytest.mark.parametrize("status", [409, 412, 422])
@pytest.mark.parametrize("text", NOT_ABOUT_ROOM)
def test_other_refusals_are_not_taken_for_it(status: int, text: str) -> None:
    assert classify(reply_of(errors.ApiError(status, text))) is ResponseKind.FATAL


FINAL = [
    errors.unauthorized(),
    errors.forbidden("media"),
    errors.no_app(),
    errors.invalid("guest"),
    errors.invalid("failed to get manifest registry.fly.io/media:x: MANIFEST_UNKNOWN"),
    errors.ApiError(422, "Validation failed: region is invalid"),
]
MAY_CLEAR_UP = [
    *(error for error, verdict in KNOWN if verdict not in (ResponseKind.FATAL, ResponseKind.NOT_FOUND)),
    errors.payment_needed(),
    errors.ApiError(422, "you have reached the machine limit of your plan"),
    errors.ApiError(403, "organization is over its limit"),
    errors.not_stopped(),
    errors.ApiError(409, "nothing that is known"),
    errors.ApiError(302, "a portal that wants to be paid first"),
]


@pytest.mark.parametrize("error", FINAL, ids=str)
def test_what_only_a_person_can_mend_is_final(error: errors.ApiError) -> None:
    reply = reply_of(error)
    assert is_final(reply, classify(reply))


@pytest.mark.parametrize("error", MAY_CLEAR_UP, ids=lambda value: str(value)[:60])
def test_what_may_clear_up_by_itself_is_not(error: errors.ApiError) -> None:
    reply = reply_of(error)
    assert not is_final(reply, classify(reply))


def test_a_wait_that_took_too_long_is_no_trouble() -> None:
    assert classify(reply_of(errors.not_reached(["started"], "created")), is_wait=True) is ResponseKind.NOT_YET


def test_no_answer_is_in_doubt_unless_nothing_was_sent() -> None:
    assert classify(APIResponse(0, failure="reset")) is ResponseKind.AMBIGUOUS
    assert classify(APIResponse(0, failure="refused", sent=False)) is ResponseKind.TRANSIENT


@given(st.integers(0, 999), st.binary(max_size=400), st.booleans(), st.booleans())
def test_garbage_has_a_verdict_and_a_short_text(status: int, body: bytes, is_wait: bool, sent: bool) -> None:
    reply = APIResponse(status, body, failure="" if status else "cut", sent=sent)
    verdict = classify(reply, is_wait=is_wait)
    assert (verdict is ResponseKind.OK) == (200 <= status < 300)
    assert len(reply.text()) <= MAX_TEXT + 3
    assert reply.text().isprintable()
    assert taken_by(reply) is None or str(taken_by(reply)).isalnum()
    FlyMachine.read(reply.json())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("id", "state", "name", "config", "incomplete_config", "metadata", "events", "request", "exit_event", "guest")


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from([*KEYS, "error", "status", "message", "exit_code"]), json_values), st.integers())
def test_answers_of_any_shape_are_read_or_refused(said: dict[str, object], status: int) -> None:
    """Nothing that is missing, new, or of another type is a crash."""
    reply = APIResponse(status % 600, json.dumps(said).encode())
    assert isinstance(classify(reply), ResponseKind)
    nested = {"id": "1", "config": said, "events": [said, {"request": said}, {"request": {"exit_event": said}}]}
    for shape in (said, nested):
        machine = FlyMachine.read(shape)
        if machine is not None:
            assert machine.exit is None or isinstance(machine.exit.code, int)
            assert machine.standing()


@given(st.integers(0, 300))
def test_an_answer_that_was_cut_short_is_no_machine(size: int) -> None:
    whole = json.dumps({"id": "7811", "state": "created", "config": {"metadata": {"a": "b"}}, "region": "lhr"}).encode()
    machine = FlyMachine.read(APIResponse(200, whole[:size]).json())
    assert (machine is not None) == (size >= len(whole))


def test_html_is_told_as_text_and_a_huge_body_is_cut() -> None:
    assert APIResponse(502, HTML).text() == "502 Bad Gateway"
    assert len(APIResponse(502, b"x" * 10_000_000).text()) == MAX_TEXT + 3
    assert APIResponse(500, b"[" * 200_000).json() is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("", None), ("2", 2.0), ("0", 0.0), ("3600", None), ("-1", None), ("soon", None), ("2.5", None),
        (formatdate(NOW + 7, usegmt=True), 7.0), (formatdate(NOW - 7, usegmt=True), None), ("9" * 400, None),
        (formatdate(NOW + 9999, usegmt=True), None), ("Mon, 99 Foo 2026", None), ("\u0663", None),
    ],
)  # fmt: skip
def test_a_sane_retry_after_counts_and_no_other(header: str | None, seconds: float | None) -> None:
    headers = {} if header is None else {"retry-after": header}
    assert retry_after(APIResponse(429, headers=headers), NOW) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_read(header: str) -> None:
    found = retry_after(APIResponse(429, headers={"retry-after": header}), NOW)
    assert found is None or 0 <= found <= MAX_RETRY_AFTER


@pytest.mark.parametrize("nested", [False, True])
def test_an_exit_is_found_among_the_events(nested: bool) -> None:
    """Fields that are nought may be missing."""
    ending = {"exit_event": {"exit_code": 137, "oom_killed": True}}
    event = {"type": "exit", "status": "stopped", "request": {"MonitorEvent": ending} if nested else ending}
    machine = FlyMachine.read({"id": "1", "events": [{"type": "destroy", "request": None}, event, {"type": "launch"}]})
    assert machine is not None
    assert machine.exit == (137, True, False, "")
    assert machine.history() == "launch -> exit/stopped -> destroy"


def test_metadata_that_is_not_known_is_not_taken_for_none() -> None:
    """Reference 1.4: a host that cannot be reached has none to show."""
    unknown = FlyMachine.read({"id": "1", "config": None, "host_status": "unreachable"})
    assert unknown is not None
    assert unknown.metadata is None
    partly = FlyMachine.read({"id": "1", "config": None, "incomplete_config": {"metadata": {"a": "b"}}})
    assert partly is not None
    assert partly.metadata == {"a": "b"}
    none = FlyMachine.read({"id": "1", "config": {"image": "x"}})
    assert none is not None
    assert none.metadata == {}
