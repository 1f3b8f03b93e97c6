"""Boots on EC2: the request, what a boot does when EC2 refuses, spot instances, and what an instance is told."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dragonfly_executor import BootError, DragonflyExecutor
from dragonfly_executor.backends.base import BootRequest, CancelToken, Signal
from dragonfly_executor.backends.ec2.backend import EC2Backend
from dragonfly_executor.protocol.parent import Parent
from tests.support.ec2_world import EC2World, Fault
from tests.support.helpers import PATIENCE, Gate, Mailbox
from tests.support.payloads import hold

pytestmark = pytest.mark.engine

MakeBackend = Callable[..., EC2Backend]
PARENT = Parent.new("a pool", 1, "ec2")._replace(address="127.0.0.1:1", fingerprint="00" * 32, token="5ec2e7" * 8)


def launches(ec2: EC2World) -> list[dict[str, str]]:
    return [fields for fields in ec2.requests if fields["Action"] == "RunInstances"]


def test_the_request_has_what_the_user_asks_for(ec2: EC2World, make_backend: MakeBackend) -> None:
    backend = make_backend(zones="us-east-1b", spot=True, tags={"team": "media"}, options={"EbsOptimized": True})
    node = backend.boot(BootRequest(1, PARENT, 60.0))
    (fields,) = launches(ec2)
    assert fields["InstanceType"] == "c7i.large"
    assert fields["Placement.AvailabilityZone"] == "us-east-1b"
    assert fields["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert fields["InstanceMarketOptions.MarketType"] == "spot"
    assert fields["InstanceMarketOptions.SpotOptions.SpotInstanceType"] == "one-time"
    assert fields["MetadataOptions.HttpTokens"] == "required"
    assert fields["EbsOptimized"] == "true"
    tags = {fields[f"TagSpecification.1.Tag.{n}.Key"]: fields[f"TagSpecification.1.Tag.{n}.Value"] for n in range(1, 9)}
    assert (tags["team"], tags["dragonfly_pool"], tags["dragonfly_kind"]) == ("media", "a pool", "runner")
    assert tags["Name"].startswith("dragonfly-a-pool-")
    assert node.price is not None
    node.stop()
    assert ec2.left() == []


@pytest.mark.parametrize("code", ["InsufficientInstanceCapacity", "VcpuLimitExceeded", "Unsupported"])
def test_a_boot_walks_on_through_types_and_zones(ec2: EC2World, make_backend: MakeBackend, code: str) -> None:
    ec2.faults += [Fault("RunInstances", code=code)] * 3
    backend = make_backend(instance_types="c7i.large, m7i.large", zones=["us-east-1a", "us-east-1b"])
    with DragonflyExecutor(backend=backend, max=1, max_concurrency=1) as executor:
        assert executor.submit(pow, 2, 5).result(PATIENCE) == 32
    asked = [(one["InstanceType"], one["Placement.AvailabilityZone"][-1]) for one in launches(ec2)]
    assert asked == [("c7i.large", "a"), ("c7i.large", "b"), ("m7i.large", "a"), ("m7i.large", "b")]
    assert len({one["ClientToken"] for one in launches(ec2)}) == 4


def test_a_boot_that_finds_no_room_says_where_it_has_looked(ec2: EC2World, make_backend: MakeBackend) -> None:
    ec2.standing += [Fault("RunInstances", code="InsufficientInstanceCapacity")]
    with pytest.raises(BootError, match=r"no room: c7i.large in us-east-1a: .*; c7i.large in us-east-1b: ") as caught:
        make_backend(zones="us-east-1a,us-east-1b").boot(BootRequest(1, PARENT, 60.0))
    assert not caught.value.final


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AuthFailure", "InvalidParameterValue"])
def test_what_fails_again_is_final(ec2: EC2World, make_backend: MakeBackend, code: str) -> None:
    ec2.standing += [Fault("RunInstances", code=code)]
    backend = make_backend(zones="us-east-1a,us-east-1b")
    with pytest.raises(BootError, match=code) as caught:
        backend.boot(BootRequest(1, PARENT, 60.0))
    assert caught.value.final
    assert len(launches(ec2)) == 1
    assert backend.journal is not None
    assert backend.journal.entries() == []


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("trouble", ["loses", "busy"])
def test_one_boot_makes_one_instance_whatever_answers_are_lost(
    ec2: EC2World, make_backend: MakeBackend, moment: str, trouble: str
) -> None:
    faults = [Fault("RunInstances", loses=moment), Fault("RunInstances", code="InternalError")]
    ec2.faults += faults if trouble == "loses" else [Fault("RunInstances", code="RequestLimitExceeded"), *faults]
    known = len(ec2.played)
    with DragonflyExecutor(backend=make_backend(), max=1, max_concurrency=1) as executor:
        assert executor.submit(pow, 2, 5).result(PATIENCE) == 32
        assert len(ec2.left()) == 1
    assert len(ec2.played) == known + 1
    assert len({fields["ClientToken"] for fields in launches(ec2)}) == 1
    assert ec2.left() == []


def test_a_lost_answer_to_the_end_is_asked_for_again(ec2: EC2World, make_backend: MakeBackend) -> None:
    backend = make_backend()
    node = backend.boot(BootRequest(1, PARENT, 60.0))
    ec2.faults += [Fault("TerminateInstances", loses="before"), Fault("TerminateInstances", code="InternalError")]
    node.stop()
    assert ec2.left() == []
    assert backend.journal is not None
    assert backend.journal.entries() == []


def test_an_instance_that_cannot_be_ended_is_left_to_a_sweep(
    ec2: EC2World, make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make_backend(sweep=False)
    node = backend.boot(BootRequest(1, PARENT, 60.0))
    ec2.standing += [Fault("TerminateInstances", code="UnauthorizedOperation")]
    with caplog.at_level(logging.WARNING, "dragonfly_executor"):
        node.stop()
    assert "may still run: EC2 refused terminate_instances: UnauthorizedOperation" in caplog.text
    assert "A later sweep destroys it" in caplog.text
    assert len(backend.sweep().left) == 1
    ec2.standing.clear()
    assert [one.why for one in backend.sweep().destroyed] == ["its pool has released it"]
    assert ec2.left() == []


def test_an_instance_ends_itself_when_its_runner_finds_nobody(ec2: EC2World, make_backend: MakeBackend) -> None:
    backend = make_backend(failsafe=0.2, sweep=False)
    node = backend.boot(BootRequest(1, PARENT, 60.0))
    ec2.wait_until(lambda: not ec2.left(), "the end of the instance")
    error = node.ended(PATIENCE)
    assert error is not None
    assert "is terminated" in str(error)
    played = ec2.played[node.instance_id]  # type: ignore[attr-defined]
    assert [words.split()[:2] for words in played.shutdowns()] == [["-h", "+1450"], ["-h", "now"]]
    assert "the runner ended with status" in (played.folder / "console").read_text()
    node.stop()


def test_the_setup_runs_first_and_its_failure_ends_the_boot(ec2: EC2World, make_backend: MakeBackend) -> None:
    with DragonflyExecutor(
        backend=make_backend(setup="export MODE=set-up", env={"OTHER": "a b'c"}), max=1, max_concurrency=1
    ) as executor:
        assert executor.submit(os.getenv, "MODE").result(PATIENCE) == "set-up"
        assert executor.submit(os.getenv, "OTHER").result(PATIENCE) == "a b'c"
    with DragonflyExecutor(
        backend=make_backend(python="/nowhere/python", setup="echo trying"), max=1, max_boot_failures=1
    ) as executor:
        assert isinstance(executor.submit(pow, 2, 5).exception(PATIENCE), BootError)
    assert ec2.left() == []


def test_a_spot_instance_that_is_taken_back_gives_its_calls_time(
    ec2: EC2World, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    """The call of the old runner ends well, and later calls run on another instance."""
    with DragonflyExecutor(backend=make_backend(spot=True), max=2, max_concurrency=1) as executor:
        future = executor.submit(hold, mailbox.path, gate.path, "done")
        mailbox.read()
        (first,) = ec2.left()
        ec2.notice = True
        ec2.wait_until(lambda: executor.pool.stats().runners_up == 0, "the runner's leaving")
        ec2.notice = False
        assert executor.submit(pow, 2, 5).result(PATIENCE) == 32
        assert len(set(ec2.left()) - {first}) == 1
        gate.open()
        assert future.result(PATIENCE) == "done"
    assert ec2.left() == []


def test_what_others_see_holds_no_secret(ec2: EC2World, make_backend: MakeBackend) -> None:
    """User data has the token, which is good once. Tags, the journal, repr and the processes' arguments have not."""
    backend = make_backend()
    assert backend.journal is not None
    node = backend.boot(BootRequest(1, PARENT, 60.0))
    (fields,) = launches(ec2)
    seen = [f"{name}={value}" for name, value in fields.items() if name != "UserData"]
    seen += [path.read_text() for path in backend.journal.folder.iterdir()]
    seen += [repr(backend), repr(node), str(backend.list_nodes())]
    for pid in ec2.played[node.instance_id].pids():  # type: ignore[attr-defined]
        seen.append(Path(f"/proc/{pid}/cmdline").read_text())
    for text in seen:
        assert "5ec2e7" not in text
        assert "canary-of-aws" not in text
    node.stop()


def test_a_boot_that_was_given_up_ends_its_request(ec2: EC2World, make_backend: MakeBackend) -> None:
    ec2.standing += [Fault("RunInstances", hangs="before")]
    given_up, ended = CancelToken(), Signal()
    errors: list[BaseException] = []

    def boot() -> None:
        try:
            make_backend().boot(BootRequest(1, PARENT, 60.0, given_up))
        except BootError as error:
            errors.append(error)
        ended.set()

    thread = threading.Thread(target=boot)
    thread.start()
    assert ec2.hung.wait(PATIENCE)
    given_up.set()
    assert ended.wait(PATIENCE)
    thread.join()
    assert "EC2 has not answered run_instances" in str(errors[0])
