"""Calls that require a label run on a host that has it, and on no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dragonfly_executor import RequirementsError, SSHBackend, SSHHost
from tests.backends.ssh.conftest import Make, MakeHost
from tests.support.helpers import PATIENCE, values


@pytest.fixture
def backend(make_host: MakeHost, key: Path, tmp_path: Path) -> SSHBackend:
    """Two hosts, of which the second has a label of its own."""
    plain, labelled = make_host(), make_host()
    known = tmp_path / "known_hosts"
    known.write_text(plain.known_as + labelled.known_as)
    hosts = [
        SSHHost(plain.spec, env={"WHICH": "plain"}),
        SSHHost(labelled.spec, env={"WHICH": "labelled"}, labels={"a100"}),
    ]
    return SSHBackend(
        hosts, key_filename=key, known_hosts=known, config=None, sync=None, use_agent=False, labels={"eu"}
    )


def test_a_runner_is_booted_on_a_host_that_has_the_label(backend: SSHBackend, make: Make) -> None:
    executor = make(backend)
    view = executor.options(requires={"labels": ["a100", "eu"]})
    assert values(view.submit(os.getenv, "WHICH") for _ in range(4)) == ["labelled"] * 4
    # A second boot may wait for the host.
    assert executor.pool.stats().boots_attempted <= 2
    assert executor.options(requires={"label": "eu"}).submit(os.getenv, "WHICH").result(PATIENCE) == "labelled"


def test_a_label_that_no_host_has_is_refused_at_submit(backend: SSHBackend, make: Make) -> None:
    with pytest.raises(RequirementsError, match=r"requires the label us, .* nearest has the labels? .*eu"):
        make(backend).options(requires={"label": "us"}).submit(int)
