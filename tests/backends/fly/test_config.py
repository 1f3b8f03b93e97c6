"""What Fly is asked for: settings, sizes, the machine's config."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor import FlyBackend
from dragonfly_executor.backends.agent_command import portable_options
from dragonfly_executor.backends.fly.machine_config import MachineTemplate, merge
from dragonfly_executor.backends.fly.settings import APIAccess, ParentAddress, Placement
from dragonfly_executor.backends.fly.sizes import CPUS, Guest
from dragonfly_executor.backends.fly.token import APIToken
from dragonfly_executor.backends.journal import NAME
from dragonfly_executor.backends.label import node_name

ON_FLY = {
    "FLY_APP_NAME": "media",
    "FLY_IMAGE_REF": "registry.fly.io/media:deployment-1",
    "FLY_API_TOKEN": "FlyV1 fm2_canary",
    "FLY_REGION": "cdg",
    "FLY_PRIVATE_IP": "fdaa:0:1:a7b::2",
}


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """As on Fly."""
    for name in ("FLY_FLAPS_BASE_URL", "FLY_MACHINE_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ON_FLY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return monkeypatch


def body_of(backend: FlyBackend) -> Any:
    return backend.template.body("name", "cdg", "PARENT", {"dragonfly_kind": "runner"})


# -- settings ----------------------------------------------------------------------------------------------------------


def test_on_fly_nothing_has_to_be_said(env: pytest.MonkeyPatch) -> None:
    backend = FlyBackend()
    assert backend.api.access[0::2] == ("media", "https://api.machines.dev")
    assert backend.listen_address() == ("fdaa:0:1:a7b::2", 0)
    assert backend.advertised_host == "fdaa:0:1:a7b::2"
    assert backend.default_boot_timeout == 120
    assert backend.default_max is None
    assert not backend.sync.auto
    body = body_of(backend)
    assert body["skip_secrets"] is True
    config = body["config"]
    assert config["image"] == ON_FLY["FLY_IMAGE_REF"]
    assert config["guest"] == {"cpu_kind": "performance", "cpus": 2, "memory_mb": 4096}
    started = [sys.executable, "-P", *(option for option in portable_options() if option != "-P"), "-m"]
    command = config["init"]["cmd"]
    assert command[: len(started) + 1] == [*started, "dragonfly_executor.runner"]
    limits = {"--failsafe": "20.000", "--max-lifetime": "86400.000", "--max-idle": "3600.000"}
    assert command[len(started) + 1 :] == [word for item in limits.items() for word in item]
    assert (config["auto_destroy"], config["restart"]) == (True, {"policy": "no"})
    assert config["stop_config"] == {"signal": "SIGTERM", "timeout": "30s"}
    assert config["dns"] == {"skip_registration": True}
    assert "services" not in config
    assert config["env"] == {"DRAGONFLY_PARENT": "PARENT"}
    assert config["metadata"] == {"dragonfly_kind": "runner"}
    json.dumps(body)


def test_the_interpreters_options_reach_the_machines_but_for_folders_of_this_one(env: pytest.MonkeyPatch) -> None:
    env.setattr(sys, "warnoptions", ["error::UserWarning"])
    env.setattr(sys, "_xoptions", {"utf8": True, "pycache_prefix": "/of/this/machine"})
    command = body_of(FlyBackend())["config"]["init"]["cmd"]
    options = command[: command.index("-m")]
    assert "-Werror::UserWarning" in options
    assert "utf8" in options
    assert not any("pycache_prefix" in option for option in options)


@pytest.mark.parametrize(("gpus", "count"), [(None, 1), (2, 2)])
def test_gpus_are_passed_on(env: pytest.MonkeyPatch, gpus: int | None, count: int) -> None:
    backend = FlyBackend(cpus=8, memory_mb=32768, gpu_kind="l40s", gpus=gpus)
    assert body_of(backend)["config"]["guest"] == {
        "cpu_kind": "performance", "cpus": 8, "memory_mb": 32768, "gpu_kind": "l40s", "gpus": count,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("FLY_APP_NAME", "app="),
        ("FLY_IMAGE_REF", "image="),
        ("FLY_API_TOKEN", "fly tokens create deploy"),
        ("FLY_PRIVATE_IP", "parent_address="),
    ],
)
def test_what_is_missing_is_said_at_once_and_where_to_get_it(env: pytest.MonkeyPatch, missing: str, says: str) -> None:
    env.delenv(missing)
    with pytest.raises(ValueError, match=says) as caught:
        FlyBackend()
    assert missing in str(caught.value)


def test_another_image_has_another_interpreter_and_not_the_files(env: pytest.MonkeyPatch) -> None:
    backend = FlyBackend(image="python:3.11")
    assert body_of(backend)["config"]["init"]["cmd"][0] == "python3"
    assert backend.sync.auto


def test_without_httpx_the_extra_is_named(env: pytest.MonkeyPatch) -> None:
    env.setitem(sys.modules, "httpx", None)
    for name in [name for name in sys.modules if name.startswith("dragonfly_executor.backends.fly.")]:
        if name.endswith(("client", "http")):
            env.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"dragonfly-executor\[fly\]"):
        FlyBackend()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("fm2_a", "FlyV1 fm2_a"),
        ("FlyV1 fm2_a", "FlyV1 fm2_a"),
        ("Bearer FlyV1 fm2_a,fm1r_b", "FlyV1 fm2_a,fm1r_b"),
        ("FlyV1 Bearer fm1a_x", "FlyV1 fm1a_x"),
        ("fm2_a, fo1_user", "FlyV1 fm2_a"),
        ("fo1_user\n", "Bearer fo1_user"),
        ("bearer fo1_user", "Bearer fo1_user"),
    ],
)
def test_a_token_travels_as_flys_own_clients_send_it(given: str, found: str) -> None:
    """Reference 1.1."""
    assert APIToken(given).header() == found


@pytest.mark.parametrize("given", ["", "  ", "FlyV1 ", "fm2_can ary", "fm2_canary\x00", "fm2_canärary"])
def test_a_token_that_is_none_is_refused_without_a_word_of_it(given: str) -> None:
    with pytest.raises(ValueError, match="token") as caught:
        APIToken(given)
    assert "can" not in str(caught.value)


def test_a_token_is_never_shown() -> None:
    token = APIToken("fm2_canary")
    access = APIAccess("media", token, "https://api.machines.dev")
    for shown in (repr(token), str(token), f"{token}", repr(access), repr(vars(APIToken).keys())):
        assert "canary" not in shown
    assert not hasattr(token, "__dict__")
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            copied(token)
    assert token.blot("said fm2_canary and FlyV1 fm2_canary") == "said ... and ..."


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("fdaa::2", ("fdaa::2", "fdaa::2", 0)),
        ("[fdaa::2]", ("fdaa::2", "fdaa::2", 0)),
        ("[fdaa::2]:4369", ("fdaa::2", "fdaa::2", 4369)),
        ("10.0.0.1:80", ("10.0.0.1", "10.0.0.1", 80)),
        ("laptop.example", ("laptop.example", "laptop.example", 0)),
        ("laptop.example:80", ("laptop.example", "laptop.example", 80)),
    ],
)
def test_where_runners_dial(given: str, found: tuple[str, str, int]) -> None:
    assert ParentAddress.find({}, parent_address=given) == found
    assert ParentAddress.find({}, parent_address=given, bind="::")[1] == "::"


@pytest.mark.parametrize("given", ["host:port", "host:70000", ":80"])
def test_an_address_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="parent_address"):
        ParentAddress.find({}, parent_address=given)


@pytest.mark.parametrize("host", ["api.machines.dev", "ftp://x", "https://user:canary@x", "http://", "x" * 20])
def test_a_host_that_is_none_is_refused_without_what_it_says(host: str) -> None:
    with pytest.raises(ValueError, match="host must be") as caught:
        APIAccess.find(ON_FLY, host=host)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_the_api_is_where_flys_own_clients_are_told_that_it_is(path: str) -> None:
    """With or without the version, which is ours to say."""
    given = f"http://_api.internal:4280{path}"
    assert APIAccess.find({**ON_FLY, "FLY_FLAPS_BASE_URL": given}).host == "http://_api.internal:4280"
    assert (
        APIAccess.find({**ON_FLY, "FLY_FLAPS_BASE_URL": "http://other"}, host=given).host == "http://_api.internal:4280"
    )


def test_regions_in_order_of_preference() -> None:
    assert Placement.find(ON_FLY).regions == ("cdg",)
    assert Placement.find(ON_FLY, region="lhr, eu").regions == ("lhr", "eu")
    assert Placement.find(ON_FLY, region=["iad", "us"]).regions == ("iad", "us")
    assert Placement.find({"FLY_IMAGE_REF": "x"}).regions == ()


@given(st.text(max_size=80))
def test_every_pool_has_names_for_its_machines(pool: str) -> None:
    first, second = node_name(pool), node_name(pool)
    assert first != second
    assert NAME.fullmatch(first)


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "guest",
    [
        Guest(), Guest("shared", 1, 256), Guest("shared", 1, 2048), Guest("shared", 8, 16384),
        Guest("performance", 1, 2048), Guest("performance", 1, 3072),
        Guest("performance", 16, 131072), Guest("performance", 8, 16384, "a10"),
    ],
    ids=str,
)  # fmt: skip
def test_sizes_that_fly_has(guest: Guest) -> None:
    assert guest.check() is guest


@pytest.mark.parametrize(
    ("guest", "says"),
    [
        (Guest("dedicated"), "cpu_kind"),
        (Guest(cpus=3), "one of 1, 2, 4"),
        (Guest("shared", 10, 4096), "one of 1, 2, 4, 6, 8"),
        (Guest("performance", 8, 8192), "from 16384 to 65536"),
        (Guest("shared", 1, 4096), "from 256 to 2048"),
        (Guest("shared", 1, 300), "multiple of 256"),
        (Guest(memory_mb=4097), "multiple of 1024"),
        (Guest(gpus=1), "gpu_kind"),
        (Guest(gpu_kind="a10", gpus=0), "at least 1"),
    ],
    ids=str,
)
def test_sizes_that_it_has_not(guest: Guest, says: str) -> None:
    """Reference 6."""
    with pytest.raises(ValueError, match=says):
        guest.check()


@given(st.sampled_from(sorted(CPUS)), st.integers(-2, 20), st.integers(-10, 200_000))
def test_a_size_is_one_that_there_is_or_an_error(kind: str, cpus: int, memory: int) -> None:
    try:
        Guest(kind, cpus, memory).check()
    except ValueError:
        return
    assert cpus in CPUS[kind]
    assert memory % 256 == 0


@pytest.mark.parametrize("options", [{"cpus": "2"}, {"memory_mb": 4096.0}, {"cpus": True}])
def test_sizes_are_numbers(env: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="whole number"):
        FlyBackend(**options)


# -- the escape hatch --------------------------------------------------------------------------------------------------


def test_a_machine_config_is_merged_over_all_else(env: pytest.MonkeyPatch) -> None:
    backend = FlyBackend(
        env={"A": "1", "B": "2"},
        metadata={"team": "video"},
        init={"entrypoint": ["/bin/tini", "--"]},
        services=[{"internal_port": 80}],
        machine_config={
            "guest": {"kernel_args": ["x"]},
            "env": {"B": "3"},
            "rootfs": {"size_gb": 9},
            "stop_config": None,
        },
    )
    config = body_of(backend)["config"]
    assert config["guest"] == {"cpu_kind": "performance", "cpus": 2, "memory_mb": 4096, "kernel_args": ["x"]}
    assert config["env"] == {"A": "1", "B": "3", "DRAGONFLY_PARENT": "PARENT"}
    assert config["metadata"] == {"team": "video", "dragonfly_kind": "runner"}
    assert config["init"]["entrypoint"] == ["/bin/tini", "--"]
    assert config["init"]["cmd"][1] == "-P"
    assert config["services"] == [{"internal_port": 80}]
    assert config["rootfs"] == {"size_gb": 9}
    assert config["stop_config"] is None


@pytest.mark.parametrize(
    ("options", "grace", "timeout"),
    [
        ({}, None, "30s"),
        ({"stop_grace": 25}, None, "30s"),
        ({"stop_grace": 0}, "0.000", "5s"),
        ({"stop_grace": timedelta(minutes=4)}, "240.000", "245s"),
        ({"stop_grace": 295}, "295.000", "300s"),
        ({"stop_grace": 0.2}, "0.200", "6s"),
        ({"machine_config": {"stop_config": {"timeout": "1m30s"}}}, "85.000", "1m30s"),
        ({"machine_config": {"stop_config": {"timeout": 120_000_000_000}}}, "115.000", 120_000_000_000),
        ({"machine_config": {"stop_config": {"timeout": "30s", "signal": "SIGINT"}}}, None, "30s"),
        ({"machine_config": {"stop_config": {"timeout": "2s"}}}, "0.000", "2s"),
    ],
)
def test_how_long_calls_have_is_said_to_fly_and_to_the_runner(
    env: pytest.MonkeyPatch, options: dict[str, Any], grace: str | None, timeout: object
) -> None:
    """One option: Fly waits 5 s longer than calls may take."""
    config = body_of(FlyBackend(**options))["config"]
    assert config["stop_config"]["timeout"] == timeout
    words = config["init"]["cmd"]
    assert (words[words.index("--stop-grace") + 1] if "--stop-grace" in words else None) == grace


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"machine_config": {"auto_destroy": False}}, "auto_destroy"),
        ({"machine_config": {"restart": {"policy": "always"}}}, "restart"),
        ({"machine_config": []}, "mapping"),
        ({"machine_config": {"env": []}}, "mapping"),
        (
            {"machine_config": {"env": {"DRAGONFLY_PARENT": "x"}}},
            "the backend sets it, and the runner finds its parent by it",
        ),
        ({"env": {"DRAGONFLY_PARENT": "x"}}, "the backend sets it, and the runner finds its parent by it"),
        ({"env": {"A": 1}}, "texts"),
        ({"env": {"A=B": "1"}}, "name"),
        ({"metadata": {"a": None}}, "texts"),
        ({"services": [1]}, "services"),
        ({"max_lifetime": 0}, "max_lifetime"),
        ({"stop_grace": 296}, "stop_grace must be 295 seconds at most"),
        ({"stop_grace": -1}, "stop_grace"),
        ({"stop_grace": 10, "machine_config": {"stop_config": {}}}, "give one of them"),
        ({"machine_config": {"stop_config": {"timeout": "soon"}}}, "the timeout is no duration"),
        ({"machine_config": {"stop_config": {"timeout": "5"}}}, "the timeout is no duration"),
        ({"machine_config": {"stop_config": {"timeout": True}}}, "the timeout is no duration"),
        ({"machine_config": {"stop_config": {"signal": "SIGUSR1"}}}, "SIGTERM and SIGINT, not 'SIGUSR1'"),
        ({"boot_timeout": "1"}, "boot_timeout"),
        ({"app": "a/../b"}, "app"),
        ({"region": [1]}, "region"),
    ],
)
def test_what_cannot_be_is_refused(env: pytest.MonkeyPatch, options: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        FlyBackend(**options)


mappings = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=6
).filter(lambda value: isinstance(value, dict))


@given(mappings, mappings)
def test_merging_changes_neither_and_the_upper_one_wins(under: Any, over: Any) -> None:
    before = copy.deepcopy((under, over))
    merged = merge(under, over)
    assert (under, over) == before
    assert merge(merged, over) == merged
    assert merged.keys() == under.keys() | over.keys()


def test_a_blueprint_shows_nothing_that_may_be_secret() -> None:
    template = MachineTemplate("image", Guest(), ("python",), env={"PASSWORD": "canary"}, more={"env": {"X": "canary"}})
    assert "canary" not in repr(template)
