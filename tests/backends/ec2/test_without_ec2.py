"""Parts that need no EC2: candidates, requests, user data, prices, error codes, arguments."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from dragonfly_executor.backends.ec2.errors import AGAIN, NO_ROOM, EC2Error
from dragonfly_executor.backends.ec2.instances import EC2Instance
from dragonfly_executor.backends.ec2.launch import (
    MAX_USER_DATA,
    Candidate,
    LaunchSettings,
    candidates,
    check_env,
    check_more,
    places,
    template_of,
)
from dragonfly_executor.backends.ec2.prices import EC2_PRICES

SETTINGS = LaunchSettings(
    image="ami-1", template={}, security_groups=("sg-1",), instance_profile="arn:aws:iam::1:instance-profile/p",
    key_name="", spot=False, env={}, setup="", tags={}, command=("python3", "-m", "x"),
    notice_command=("python3", "-m", "y"), max_lifetime=60.0, more={},
)  # fmt: skip


def test_each_type_is_tried_in_all_places_before_the_next() -> None:
    assert candidates(["a", "b"], places(["s1", "s2"], ["ignored"])) == [
        Candidate("a", "s1", ""), Candidate("a", "s2", ""), Candidate("b", "s1", ""), Candidate("b", "s2", ""),
    ]  # fmt: skip
    assert candidates([], places([], ["z"])) == [Candidate("", "", "z")]
    assert [str(one) for one in candidates([], places([], []))] == ["the template"]


def test_what_is_not_given_is_left_to_the_template() -> None:
    request = SETTINGS._replace(image="", template=template_of("lt-1:3")).request(Candidate("", "", ""), "t", "s", {})
    assert request["LaunchTemplate"] == {"LaunchTemplateId": "lt-1", "Version": "3"}
    assert not {"ImageId", "InstanceType", "SubnetId", "Placement", "KeyName", "InstanceMarketOptions"} & set(request)
    assert request["IamInstanceProfile"] == {"Arn": "arn:aws:iam::1:instance-profile/p"}
    assert template_of("runners") == {"LaunchTemplateName": "runners", "Version": "$Default"}


@pytest.mark.parametrize("name", ["ClientToken", "UserData", "InstanceInitiatedShutdownBehavior", "TagSpecifications"])
def test_what_the_backend_sets_itself_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="sets the parameter"):
        check_more({name: "x"})


@pytest.mark.parametrize("name", ["A B", "1A", "", "DRAGONFLY_PARENT", "A;rm"])
def test_a_name_that_no_shell_takes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no runner can get"):
        check_env({name: "x"})


def test_user_data_is_a_script_whatever_the_values_are() -> None:
    settings = SETTINGS._replace(env={"A": 'it\'s $(false) `x` "y"\n'}, command=("env",), spot=True)
    script = settings.script("parent'; exit 7; '")
    ran = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "shutdown -h +11\n" in script


def test_user_data_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="16384 at most"):
        SETTINGS._replace(setup="#" * MAX_USER_DATA).script("parent")


def test_prices_grow_with_the_size() -> None:
    def hourly(name: str, region: str = "us-east-1", **more: Any) -> float | None:
        price = EC2_PRICES.per_second(name, region, is_spot=more.get("is_spot", False))
        return None if price is None else round(price * 3600, 4)

    assert hourly("m5.large") == 0.096
    assert hourly("m5.xlarge") == 0.192
    assert hourly("m5.4xlarge") == 0.768
    assert hourly("t3.micro") == 0.0104
    assert hourly("g5.xlarge") == 1.006
    assert hourly("m5.large", "eu-central-1") == 0.1152
    assert hourly("m5.metal") is None
    assert hourly("zz9.large") is None
    halved = EC2_PRICES._replace(spot_share=0.5)
    assert halved.per_second("m5.large", "us-east-1", is_spot=True) == pytest.approx(0.048 / 3600)


def test_a_price_is_a_finite_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        EC2_PRICES._replace(families={"m5": float("nan")}).check()


def test_a_code_means_one_thing() -> None:
    assert not NO_ROOM & AGAIN
    for code in (*NO_ROOM, *AGAIN, "", "UnauthorizedOperation"):
        error = EC2Error("", code)
        assert [error.is_no_room, error.is_temporary, error.is_final].count(True) == 1
    assert all(EC2Error("", code).is_no_room for code in NO_ROOM)
    assert all(EC2Error("", code).is_temporary for code in AGAIN)
    assert EC2Error("", "UnauthorizedOperation").is_final


def test_an_instance_may_lack_any_field() -> None:
    instance = EC2Instance.read({"InstanceId": "i-1"})
    assert (instance.state, instance.name, instance.label, instance.launched) == ("", "", None, None)
    assert "i-1" in instance.describe()
