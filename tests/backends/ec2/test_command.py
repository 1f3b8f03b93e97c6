"""``dragonfly doctor``, ``list``, ``sweep`` and ``destroy`` with ``--backend ec2``, and the transcoding example."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.ec2.backend import EC2Backend
from dragonfly_executor.cli.main import main
from tests.backends.ec2.conftest import IMAGE
from tests.backends.ec2.test_boots import PARENT
from tests.support.ec2_world import REGION, EC2World, Fault

pytestmark = pytest.mark.engine

MakeBackend = Callable[..., EC2Backend]
EXAMPLE = Path(__file__).parents[3] / "examples" / "transcode.py"


def settings(ec2: EC2World, **more: str) -> list[str]:
    given = {"region": REGION, "endpoint_url": ec2.url, **more}
    return ["--backend", "ec2", *(word for name, value in given.items() for word in ("--set", f"{name}={value}"))]


def is_large(fields: dict[str, str]) -> bool:
    return fields["InstanceType"] == "c7i.large"


def for_boots(ec2: EC2World) -> dict[str, str]:
    return {"image": IMAGE, "host": "127.0.0.1", "python": sys.executable, "instance_types": "c7i.large"}


def test_the_doctor_reports_each_step(ec2: EC2World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *settings(ec2, **for_boots(ec2))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ec2"
    steps = ["credentials", "launch", "create", "start", "connect"]
    assert [line.split()[:2] for line in lines[1:6]] == [[step, "ok"] for step in steps]
    assert "EC2 accepts a dry run of c7i.large" in lines[2]
    assert ec2.left() == []


def test_the_doctor_tells_what_ec2_says(ec2: EC2World, capsys: pytest.CaptureFixture[str]) -> None:
    ec2.standing += [Fault("RunInstances", code="UnauthorizedOperation")]
    assert main(["doctor", *settings(ec2, **for_boots(ec2))]) == 1
    assert "UnauthorizedOperation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("action", "code", "checks"),
    [
        ("DescribeInstances", "AuthFailure", [("credentials", False)]),
        ("RunInstances", "InvalidAMIID.NotFound", [("credentials", True), ("launch", False)]),
    ],
)
def test_the_doctor_launches_nothing_if_a_check_fails(
    ec2: EC2World, action: str, code: str, checks: list[tuple[str, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    ec2.standing += [Fault(action, code=code)]
    assert main(["doctor", *settings(ec2, **for_boots(ec2)), "--json"]) == 1
    *found, boot = json.loads(capsys.readouterr().out)["hosts"]["ec2"]
    assert [(finding["name"], finding["ok"]) for finding in found] == checks
    assert code in found[-1]["text"]
    assert (boot["name"], boot["text"]) == ("boot", "not reached")
    assert all(asked.get("DryRun") == "true" for asked in ec2.requests if asked["Action"] == "RunInstances")


def test_a_type_that_has_no_room_fails_no_check(ec2: EC2World, make_backend: MakeBackend) -> None:
    ec2.standing += [Fault("RunInstances", code="InsufficientInstanceCapacity", where=is_large)]
    _, launch = make_backend(instance_types=["c7i.large", "m7i.xlarge"]).checks()
    assert launch.ok
    asked = [each["InstanceType"] for each in ec2.requests if each["Action"] == "RunInstances"]
    assert asked == ["c7i.large", "m7i.xlarge"]


def test_a_later_type_that_ec2_does_not_know_fails_the_check(ec2: EC2World, make_backend: MakeBackend) -> None:
    ec2.standing += [Fault("RunInstances", code="InvalidParameterValue", where=is_large)]
    _, launch = make_backend(instance_types=["m7i.xlarge", "c7i.large"]).checks()
    assert not launch.ok
    assert launch.text.startswith("c7i.large: EC2 refused run_instances: InvalidParameterValue")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"image": None}, "neither image= nor launch_template="), ({"setup": "#" * 20000}, "16384 at most")],
    ids=["no image", "long setup"],
)
def test_a_launch_that_cannot_be_sent_fails_the_check(
    make_backend: MakeBackend, arguments: dict[str, str | None], text: str
) -> None:
    _, launch = make_backend(**arguments).checks()
    assert not launch.ok
    assert text in launch.text


def test_missing_credentials_are_told(make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (found,) = make_backend().checks()
    assert (found.name, found.ok) == ("credentials", False)
    assert "Unable to locate credentials" in found.text


def test_the_command_lists_and_destroys(
    ec2: EC2World, make_backend: MakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    node = make_backend(sweep=False).boot(BootRequest(1, PARENT, 60.0))
    assert main(["list", *settings(ec2), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (record,) = document["nodes"]
    assert (document["backend"], record["liveness"], record["pool"]) == ("ec2", "alive", "a pool")
    assert record["cost"] is not None
    assert main(["sweep", *settings(ec2), "--yes"]) == 0
    assert "nothing to destroy" in capsys.readouterr().out
    assert main(["list", *settings(ec2)]) == 0
    assert "by prices as of 2026-02-09" in capsys.readouterr().out
    assert main(["destroy", *settings(ec2), "--yes", record["node_id"]]) == 0
    assert ec2.left() == []
    node.stop()


def test_a_region_that_does_not_answer_is_told(ec2: EC2World, capsys: pytest.CaptureFixture[str]) -> None:
    ec2.standing += [Fault("DescribeInstances", code="UnauthorizedOperation")]
    assert main(["list", *settings(ec2)]) == 1
    assert "EC2 refused describe_instances: UnauthorizedOperation" in capsys.readouterr().err


def test_a_video_is_transcoded_on_two_instances(ec2: EC2World, tmp_path: Path) -> None:
    """The frames are counted against the original's."""
    arguments = ["--backend", "ec2", "--runners", "2", "--slots", "1", "--quiet", "--no-comparison"]
    given = [f"{name}={value}" for name, value in {**for_boots(ec2), "endpoint_url": ec2.url, "region": REGION}.items()]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments, "--ec2", *given, "--output", str(tmp_path / "out.mp4")],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "runners     2 (" in done.stdout
    assert "132 frames, 5.28 s, as the original has" in done.stdout
    assert ec2.left() == []
