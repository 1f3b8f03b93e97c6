"""Who may ask the page's server, and for what. No socket: httpx calls the application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from dragonfly_executor.dashboard.app import FILES, MAX_BODY, PAGE, make_app

TOKEN = "the-token"
JSON = {"content-type": "application/json"}


class Pools:
    """Two pools, which keep what they are asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, object]]] = []
        self.is_refusing = False

    async def reports(self) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
        report = {"pool": "media", "stats": {}, "runners": [1], "calls": [2]}
        return {"a": report, "b": {**report, "pool": "other"}}, ["process 7 is stopped"]

    async def ask(self, key: str, request: Mapping[str, object]) -> Mapping[str, Any]:
        self.asked.append((key, request))
        return {"error": "refused"} if self.is_refusing else {"said": key, "cost": float("inf")}

    def close(self) -> None:
        """Nothing waits."""


def send(pools: Pools, method: str, path: str, *, read_only: bool = False, **more: Any) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(pools, TOKEN, read_only=read_only))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8700") as client:
            return await client.request(method, path, **more)

    return asyncio.run(request())


def get(path: str, **more: Any) -> httpx.Response:
    return send(Pools(), "GET", path, **more)


def test_the_page_and_its_files_come_from_here_alone() -> None:
    assert {name for name, _ in FILES.values()} == {path.name for path in PAGE.iterdir()}
    for path, (name, media_type) in FILES.items():
        answer = get(f"/{TOKEN}/{path}")
        assert answer.status_code == 200
        assert answer.text == (PAGE / name).read_text()
        assert answer.headers["content-type"].startswith(media_type)
        for word in ("http:", "https:", "innerHTML"):
            assert word not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert get(f"/{TOKEN}").headers["location"] == f"/{TOKEN}/"
    assert get(f"/{TOKEN}/../page.py").status_code in (403, 404)


@pytest.mark.parametrize(
    "path", ["/", "", "/api/state", "/wrong/", "/the-toke/", "/the-token2/", "/%F0%9F%90%89/", "//"]
)
def test_without_the_token_nothing_is_told(path: str) -> None:
    answer = get(path)
    assert answer.status_code == 403
    assert "must begin with the token" in answer.text
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", "localhost.evil", "", "[::2]:1"]
)
def test_a_name_that_leads_here_from_elsewhere_is_refused(host: str) -> None:
    assert get(f"/{TOKEN}/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "[::1]:9000", "localhost"])
def test_any_port_is_right_because_a_tunnel_has_its_own(host: str) -> None:
    assert get(f"/{TOKEN}/", headers={"host": host}).status_code == 200


def test_the_state_has_the_rows_of_one_pool_alone() -> None:
    pools = Pools()
    state = send(pools, "GET", f"/{TOKEN}/api/state?pool=b&calls_after=5&tick_after=x").json()
    assert pools.asked == [("b", {"ask": "history", "calls_after": 5, "tick_after": 0})]
    assert [sorted(pool) for pool in state["pools"]] == [["key", "pool", "stats"]] * 2
    assert (state["chosen"], state["report"]["runners"], state["history"]["said"]) == ("b", [1], "b")
    assert (state["silent"], state["read_only"]) == (["process 7 is stopped"], False)
    # A pool that has ended: the first one is shown, from the beginning.
    state = send(pools, "GET", f"/{TOKEN}/api/state?pool=gone&calls_after=5").json()
    assert state["chosen"] == "a"
    assert pools.asked[-1] == ("a", {"ask": "history", "calls_after": 0, "tick_after": 0})


def test_calls_are_killed_and_pools_resized() -> None:
    pools = Pools()
    for path, body in (("kill", {"pool": "a", "call": 7}), ("resize", {"pool": "b", "min": 1, "max": 2})):
        assert send(pools, "POST", f"/{TOKEN}/api/{path}", json=body).status_code == 200
    assert pools.asked == [("a", {"ask": "kill", "call": 7}), ("b", {"ask": "resize", "min": 1, "max": 2})]
    assert send(pools, "GET", f"/{TOKEN}/api/call?pool=a&call=7").json()["said"] == "a"
    pools.is_refusing = True
    answer = send(pools, "POST", f"/{TOKEN}/api/kill", json={"pool": "a", "call": 7})
    assert (answer.status_code, answer.json()) == (400, {"error": "refused"})


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 403),  # as a form of another site sends it
        ({"json": {}, "headers": {"origin": "http://evil.example"}}, 403),
        ({"json": {}, "headers": {"origin": "null"}}, 403),
        ({"json": {}, "headers": {"sec-fetch-site": "cross-site"}}, 403),
        ({"json": {}, "headers": {"origin": "http://127.0.0.1:8700", "sec-fetch-site": "same-origin"}}, 200),
        ({"content": b"[1]", "headers": JSON}, 400),
        ({"content": b"\xff", "headers": JSON}, 400),
        ({"content": b"[" * MAX_BODY, "headers": JSON}, 400),
        ({"content": json.dumps({"call": "7" * MAX_BODY}), "headers": JSON}, 400),
    ],
)
def test_only_the_page_itself_changes_anything(more: dict[str, Any], status: int) -> None:
    pools = Pools()
    assert send(pools, "POST", f"/{TOKEN}/api/kill", **more).status_code == status
    assert len(pools.asked) == (status == 200)


def test_a_page_that_is_read_only_changes_nothing() -> None:
    pools = Pools()
    for path in ("kill", "resize"):
        answer = send(pools, "POST", f"/{TOKEN}/api/{path}", json={"call": 7}, read_only=True)
        assert (answer.status_code, answer.json()) == (403, {"error": "this page is read-only"})
    assert send(pools, "GET", f"/{TOKEN}/api/state", read_only=True).json()["read_only"] is True
    assert [request["ask"] for _, request in pools.asked] == ["history"]
    # What changes something is no link.
    assert send(pools, "GET", f"/{TOKEN}/api/kill?call=7").status_code == 405
