"""The token is where it has to be, on its way to Fly, and nowhere else: checklist 57."""

from __future__ import annotations

import base64
import logging
import math
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import FlyBackend
from dragonfly_executor.protocol.parent import VARIABLE, Parent
from tests.backends.fly.boots import ASLEEP_CONFIG, CANARY, boot
from tests.backends.fly.conftest import Make, MakeBackend
from tests.processes.dialback.test_secrets import spellings
from tests.support.census import Census
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE, Gate, Mailbox, error_of, values
from tests.support.payloads import hold


def test_no_process_of_a_machine_has_the_token_or_a_secret_of_the_app(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate, census: Census
) -> None:
    """In no command line and no environment, of main process, agent and slots. Nor the runner's own token."""
    on_fly.world.app("media").secrets.update({"FLY_API_TOKEN": on_fly.token, "PASSWORD": "canary-7d1e"})
    backend = make_backend()
    before = {process.pid for process in census.processes()}
    with make(backend) as executor:
        futures = [executor.submit(hold, mailbox.path, gate.path) for _ in range(2)]
        mailbox.numbers(2)
        pids = {process.pid for process in census.processes()} - before
        assert len(pids) == 4
        parent = Parent.decode(on_fly.machine().config["env"][VARIABLE])
        assert parent.token is not None
        secrets = [*spellings(parent.token), on_fly.token.encode(), b"canary-7d1e"]
        for pid in pids:
            for name in ("cmdline", "environ"):
                content = Path(f"/proc/{pid}/{name}").read_bytes()
                assert b"FLY_API_TOKEN" not in content
                for secret in secrets:
                    assert secret not in content, (pid, name)
        gate.open(2)
        values(futures)


@pytest.mark.parametrize("skip", [True, False])
def test_the_apps_secrets_are_kept_from_runners_unless_they_are_wanted(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, skip: bool
) -> None:
    on_fly.world.app("media").secrets["PASSWORD"] = "wanted"
    with make(make_backend(skip_secrets=skip)) as executor:
        found = executor.submit(eval, "__import__('os').environ.get('PASSWORD')").result(PATIENCE)
    assert found == (None if skip else "wanted")


ENVIRONMENT = (
    "[__import__('os').environ.get(name) for name in ('FLY_API_TOKEN', 'FLY_ACCESS_TOKEN', 'PASSWORD')]"
    " + [open('/proc/self/environ', 'rb').read()]"
)


@pytest.mark.parametrize("why", ["skip_secrets=False", "skip_secrets is not heeded"])
def test_a_runner_drops_the_token_for_fly(on_fly: Simulator, make: Make, make_backend: MakeBackend, why: str) -> None:
    """Whoever has it owns the app. What else the machine has is the calls'."""
    on_fly.switches.skips_secrets = why == "skip_secrets=False"
    secrets = {"FLY_API_TOKEN": on_fly.token, "FLY_ACCESS_TOKEN": "fm2_canary", "PASSWORD": "wanted"}
    on_fly.world.app("media").secrets.update(secrets)
    with make(make_backend(skip_secrets=why != "skip_secrets=False")) as executor:
        *found, environ = executor.submit(eval, ENVIRONMENT).result(PATIENCE)
    assert found == [None, None, "wanted"]
    assert on_fly.token.encode() not in environ
    assert b"fm2_canary" not in environ


@pytest.mark.parametrize(
    "options",
    [
        {"keep_token": True, "skip_secrets": False},
        {"env": {"FLY_API_TOKEN": "fm2_theirs"}},
        {"machine_config": {"env": {"FLY_API_TOKEN": "fm2_theirs"}}},
    ],
    ids=["keep_token", "env", "machine_config"],
)
def test_a_token_that_is_meant_for_runners_stays(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, options: dict[str, Any]
) -> None:
    on_fly.world.app("media").secrets["FLY_API_TOKEN"] = "fm2_theirs"
    with make(make_backend(**options)) as executor:
        assert executor.submit(eval, ENVIRONMENT).result(PATIENCE)[0] == "fm2_theirs"


def test_the_token_is_in_nothing_that_is_asked_for_written_or_logged(
    on_fly: Simulator, make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Bodies, addresses and queries of requests, metadata, the journal, log lines; and neither is the runner's own."""
    with caplog.at_level(logging.DEBUG):
        backend = make_backend(sweep=True, machine_config=ASLEEP_CONFIG)
        node = boot(backend)
        assert backend.journal is not None
        written = b"".join(path.read_bytes() for path in backend.journal.folder.iterdir())
        shown = [repr(backend), repr(node), node.output(), str(node.facts), repr(vars(backend)), repr(vars(node))]
        node.stop()
    asked = b"".join(call.path.encode() + repr(call.query).encode() + call.raw for call in on_fly.history.calls)
    told = "".join([written.decode(), *shown, caplog.text])
    assert on_fly.token not in told + asked.decode()
    # Where it has to be: in the machine's environment, encoded, and nowhere else.
    for spelling in spellings(CANARY):
        assert spelling not in told.encode()
    machine = on_fly.machine()
    assert Parent.decode(machine.config["env"].pop(VARIABLE)).token == CANARY
    for spelling in spellings(CANARY):
        assert spelling not in repr(machine.config).encode()


@pytest.mark.parametrize(
    "trouble",
    [
        {"reply": errors.unauthorized()},
        {"reply": errors.platform(502)},
        {"reset": True},
        {"change": lambda body: "not a machine"},
    ],
    ids=["401", "502", "reset", "garbage"],
)
def test_no_error_has_the_token(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, trouble: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the error nor what caused it, as text, in a traceback, or pickled."""
    monkeypatch.setattr("dragonfly_executor.backends.fly.boot.UNDO_TIMEOUT", 0.3)
    on_fly.faults.on("create", times=math.inf, **{"commit": False, **trouble})
    with make(make_backend(), boot_timeout=0.5, max_boot_failures=1) as executor:
        error: BaseException | None = error_of(executor.submit(pow, 2, 3))
    shown = "".join(traceback.format_exception(error))
    while error is not None:
        shown += f"{error!r}{error}{pickle.dumps(error)!r}"
        error = error.__cause__ or error.__context__
    assert on_fly.token not in shown
    assert base64.b64encode(on_fly.token.encode()).decode()[:-3] not in shown


def test_a_token_that_is_wrong_is_not_repeated(on_fly: Simulator) -> None:
    # Not in the source as it is: a traceback shows that line.
    word = "yranac"[::-1]
    with pytest.raises(ValueError, match="spaces or characters") as caught:
        FlyBackend(token=f"fm2_{word} with a space")
    assert word not in "".join(traceback.format_exception(caught.value))
