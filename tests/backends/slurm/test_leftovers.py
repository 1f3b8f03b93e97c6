"""Jobs that a killed program has left: listed, swept and destroyed, by the backend and by the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dragonfly_executor import BootError
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.owner import Liveness
from dragonfly_executor.backends.slurm.backend import SlurmBackend
from dragonfly_executor.backends.slurm.node import SlurmNode
from dragonfly_executor.cli.main import main
from dragonfly_executor.protocol.parent import Parent
from tests.backends.slurm.test_chaos import program
from tests.support.helpers import Gate, Mailbox
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.engine

MakeBackend = Callable[..., SlurmBackend]


@pytest.fixture
def _commands(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.env[name])


@pytest.fixture(autouse=True)
def _no_jobs_afterwards(cluster: SlurmCluster) -> Iterator[None]:
    yield
    if jobs := cluster.jobs():
        cluster.run("scancel", "--signal=KILL", "--full", *jobs)
        cluster.run("scancel", *jobs)
        cluster.wait_until(lambda: not cluster.jobs(), "the end of all jobs")


def boot(backend: SlurmBackend, pool: str) -> SlurmNode:
    """Boot a runner that finds nobody at its parent's address."""
    parent = Parent.new(pool, 1, "slurm")._replace(address="127.0.0.1:1", fingerprint="00" * 32, token="00" * 32)
    node = backend.boot(BootRequest(1, parent, 30.0))
    assert isinstance(node, SlurmNode)
    return node


def left_in_the_queue(cluster: SlurmCluster, folder: Path, mailbox: Mailbox, gate: Gate) -> str:
    """Kill a program whose job waits in the queue, and return the job's id."""
    with program(cluster, folder / "logs", mailbox, gate, "begin=now+1hour") as parent:
        cluster.wait_until(cluster.jobs, "the job in the queue")
        parent.kill()
        parent.wait()
    (job,) = cluster.jobs()
    return job


def test_a_job_in_the_queue_of_a_killed_program_is_swept(
    cluster: SlurmCluster, make_backend: MakeBackend, tmp_path: Path, mailbox: Mailbox, gate: Gate
) -> None:
    job = left_in_the_queue(cluster, tmp_path, mailbox, gate)
    backend = make_backend(journal=tmp_path / "logs-journal")
    (found,) = backend.list_nodes()
    assert (found.node_id, found.state, found.liveness, found.in_journal) == (job, "PENDING", Liveness.GONE, True)
    assert found.age is not None
    assert found.age < 100
    swept = backend.sweep()
    assert ([one.node_id for one in swept.destroyed], swept.left) == ([job], [])
    assert cluster.jobs() == []
    assert backend.journal is not None
    assert backend.journal.entries() == []


def test_the_first_boot_of_the_next_program_sweeps(
    cluster: SlurmCluster, make_backend: MakeBackend, tmp_path: Path, mailbox: Mailbox, gate: Gate
) -> None:
    """Without the journal of the program that was killed: the job's comment is enough."""
    left = left_in_the_queue(cluster, tmp_path, mailbox, gate)
    node = boot(make_backend(), "next")
    cluster.wait_until(lambda: left not in cluster.jobs(), "the end of the job that was left")
    node.stop()
    assert cluster.jobs() == []


def test_jobs_of_others_are_neither_listed_nor_swept(cluster: SlurmCluster, make_backend: MakeBackend) -> None:
    own = [
        cluster.submit("--job-name=dragonfly-mine", "--begin=now+1hour", "--wrap=true"),
        cluster.submit("--comment=dragonfly_executor {}", "--begin=now+1hour", "--wrap=true"),
        cluster.submit(
            "--job-name=dragonfly-mine", "--comment=dragonfly_executor {{", "--begin=now+1hour", "--wrap=true"
        ),
    ]
    backend = make_backend()
    assert backend.list_nodes() == []
    assert backend.sweep() == ([], [])
    assert set(cluster.jobs()) == set(own)
    cluster.run("scancel", *own)


def test_a_pool_may_have_any_name(cluster: SlurmCluster, make_backend: MakeBackend) -> None:
    """The fields of squeue are separated by a character that a name may have."""
    backend = make_backend()
    node = boot(backend, 'a|b "c" {')
    (found,) = backend.list_nodes()
    assert found.pool == 'a|b "c" {'
    node.stop()


def test_a_job_whose_submission_got_no_answer_is_swept(
    cluster: SlurmCluster, make_backend: MakeBackend, tmp_path: Path
) -> None:
    """sbatch submits the job and is killed; squeue then does not answer either. The journal has the name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", 'sbatch "$@" >/dev/null; kill -9 $$'), ("squeue", "exit 1")):
        (folder / name).write_text(f"#!/bin/sh\nPATH={cluster.env['PATH']}\n{text}\n")
        (folder / name).chmod(0o755)
    env = {**cluster.env, "PATH": f"{folder}:{cluster.env['PATH']}"}
    backend = make_backend(command_env=env, options={"begin": "now+1hour"})
    with pytest.raises(BootError, match="sbatch failed"):
        backend.boot(BootRequest(1, Parent.new("lost", 1, "slurm"), 30.0))
    assert len(cluster.jobs()) == 1
    swept = make_backend().sweep()
    assert [one.why for one in swept.destroyed] == ["its pool has released it"]
    assert cluster.jobs() == []


@pytest.mark.usefixtures("_commands")
def test_the_command_lists_sweeps_and_destroys(
    cluster: SlurmCluster, make_backend: MakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    node = boot(make_backend(sweep=False), "mine")
    backend = ["--backend", "slurm"]
    assert main(["list", *backend]) == 0
    out = capsys.readouterr().out
    assert "mine" in out
    assert "alive: process" in out
    assert main(["list", *backend, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (record,) = document["nodes"]
    assert (document["backend"], record["liveness"], record["node_id"]) == ("slurm", "alive", node.job_id)
    assert main(["sweep", *backend, "--yes"]) == 0
    assert "nothing to destroy" in capsys.readouterr().out
    assert main(["destroy", *backend, "--yes", "nowhere"]) == 1
    assert "nowhere: no pool has booted such a node" in capsys.readouterr().err
    assert main(["destroy", *backend, node.job_id]) == 1
    assert "give --yes" in capsys.readouterr().err
    assert cluster.jobs() == [node.job_id]
    assert main(["destroy", *backend, "--yes", record["name"]]) == 0
    assert capsys.readouterr().out == f"destroyed {record['name']}\n"
    assert cluster.jobs() == []
    node.stop()


@pytest.mark.usefixtures("_commands")
def test_the_command_sweeps_what_is_left(
    cluster: SlurmCluster, tmp_path: Path, mailbox: Mailbox, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    left = left_in_the_queue(cluster, tmp_path, mailbox, gate)
    arguments = ["--backend", "slurm", "--journal", str(tmp_path / "logs-journal")]
    assert main(["list", *arguments]) == 0
    assert "`dragonfly sweep --backend slurm` destroys them" in capsys.readouterr().out
    assert main(["sweep", *arguments, "--yes", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["destroyed"]) == 1
    assert left not in cluster.jobs()


@pytest.mark.usefixtures("_commands")
def test_a_controller_that_is_away_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    assert main(["list", "--backend", "slurm"]) == 1
    assert "squeue failed" in capsys.readouterr().err
