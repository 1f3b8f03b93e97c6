"""Checks of EC2 without an instance: does EC2 accept the credentials, and would it launch an instance?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from dragonfly_executor.backends.backend_check import BackendCheck
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ec2.client import EC2Client
from dragonfly_executor.backends.ec2.errors import EC2Error
from dragonfly_executor.backends.ec2.launch import NOTHING_TO_LAUNCH, Candidate, LaunchSettings
from dragonfly_executor.backends.label import KIND, RUNNER

CHECK_TIMEOUT = 20.0
"""Seconds for each check."""
WOULD_SUCCEED = "DryRunOperation"
"""EC2's code for a dry run of a request that EC2 would carry out."""
SMALLEST_PAGE = 5


def check_ec2(client: EC2Client, settings: LaunchSettings, candidates: Sequence[Candidate]) -> Iterator[BackendCheck]:
    """List instances, then ask EC2 for a dry run of each launch. Stops at the first check that fails.

    The checks need no more rights than a boot.
    """
    listed = _check_credentials(client)
    yield listed
    if listed.ok:
        yield _check_launch(client, settings, candidates)


def _check_credentials(client: EC2Client) -> BackendCheck:
    try:
        client.call("describe_instances", Deadline(CHECK_TIMEOUT), MaxResults=SMALLEST_PAGE)
    except EC2Error as error:
        advice = "aws sts get-caller-identity shows whose credentials are used; docs/ec2.md lists the permissions"
        return BackendCheck("credentials", False, str(error), advice)
    return BackendCheck("credentials", True, f"EC2 lists the instances of {client.region}")


def _check_launch(client: EC2Client, settings: LaunchSettings, candidates: Sequence[Candidate]) -> BackendCheck:
    if not settings.image and not settings.template:
        return BackendCheck("launch", False, NOTHING_TO_LAUNCH, "add --set image=ami-...")
    try:
        script = settings.script("")
    except ValueError as error:
        return BackendCheck("launch", False, str(error), "shorten setup= or env=")
    tags = {KIND: RUNNER, "Name": "dragonfly-doctor"}
    deadline, refusals = Deadline(CHECK_TIMEOUT), []
    for candidate in candidates:
        request = settings.request(candidate, os.urandom(16).hex(), script, tags)
        try:
            client.call("run_instances", deadline, **request, DryRun=True)
        except EC2Error as error:
            # A boot goes on to the next candidate if EC2 has no room for one.
            if error.code != WOULD_SUCCEED and not error.is_no_room:
                refusals.append(f"{candidate}: {error}")
    if refusals:
        advice = "correct the argument that EC2 names; docs/ec2.md lists the permissions"
        return BackendCheck("launch", False, "; ".join(refusals), advice)
    return BackendCheck("launch", True, f"EC2 accepts a dry run of {', '.join(str(each) for each in candidates)}")
