"""The example of `docs/backends.md`: a whole backend in less than a hundred lines, which keeps the contract."""

from __future__ import annotations

import ast
import gc
import io
import os
import re
import tokenize
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError, DragonflyExecutor, Parent
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.testing import BackendContract
from tests.support.fake_docker import IMAGE, FakeDocker
from tests.support.helpers import PATIENCE, SOON

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "backends" / "docker_engine.py"
MakeBackend = Callable[..., Backend]


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[FakeDocker]:
    docker = FakeDocker(tmp_path)
    yield docker
    docker.stop()


@pytest.fixture
def make_backend(docker: FakeDocker) -> MakeBackend:
    from examples.backends.docker_engine import DockerBackend

    def make(image: str = IMAGE, **options: Any) -> Backend:
        # What travels is the business of other tests, and this run's imports are many.
        return DockerBackend(image, **{"socket": docker.path, "sync": None, **options})

    return make


class TestDockerBackend(BackendContract):
    give_up_patience = SOON

    @pytest.fixture(autouse=True)
    def _engine(self, docker: FakeDocker, make_backend: MakeBackend) -> None:
        self.docker, self.make_backend = docker, make_backend  # type: ignore[method-assign]

    def make_broken_backend(self) -> Backend:
        return self.make_backend("not-there:1")

    def kill(self, node: Any) -> None:
        self.docker.containers[node.name].kill()

    def left_running(self, backend: Backend) -> Sequence[object]:
        return list(self.docker.containers)

    def hanging_steps(self) -> Sequence[str]:
        return ["/create", "/start"]

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        self.docker.hanging = [step]
        self.docker.hangs.clear()
        return self.make_backend(), lambda: self.docker.hangs.wait(PATIENCE)


def lines_of_code(source: str) -> int:
    """Lines with something on them that is neither a comment nor a docstring."""
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def test_a_backend_is_less_than_a_hundred_lines() -> None:
    """The seam is right as long as that is enough."""
    assert lines_of_code("'''Doc.'''\n\nx = [\n    1,\n]  # five\n") == 3
    assert lines_of_code(EXAMPLE.read_text()) < 100


@pytest.mark.parametrize("base", [Backend, Node], ids=lambda base: base.__name__)
def test_the_recipe_names_all_that_a_backend_may_say(base: type) -> None:
    """Else whoever writes one has to read ours. `sessions` is kept by the pool, `make_loop` is for tests."""
    page = (EXAMPLE.parents[2] / "docs" / "backends.md").read_text()
    names = {name for name in vars(base) if not name.startswith("_")} - {"sessions", "make_loop"}
    assert {name for name in names if not re.search(rf"[`.]{name}\b", page)} == set()


def test_a_container_has_the_image_its_labels_and_what_the_user_says(
    docker: FakeDocker, make_backend: MakeBackend
) -> None:
    backend = make_backend(env={"MODE": "test"}, host_config={"Memory": 2**30})
    with DragonflyExecutor(backend=backend, max=1, max_concurrency=1) as executor:
        assert executor.submit(os.getenv, "MODE").result() == "test"
        (container,) = docker.containers.values()
    assert container.config["HostConfig"] == {"NetworkMode": "host", "Init": True, "Memory": 2**30}
    assert container.config["Labels"]["dragonfly.pool"] == executor.pool.name
    assert docker.containers == {}


@pytest.mark.parametrize("lost", ["POST /containers/create", "POST /containers/dragonfly", "DELETE"])
def test_a_lost_answer_leaves_no_container(docker: FakeDocker, make_backend: MakeBackend, lost: str) -> None:
    """The request was served, and nobody heard of it: the name was there before."""
    backend = make_backend()
    docker.broken[lost] = 1
    parent = Parent.new("pool", 1, "docker")
    try:
        node = backend.boot(BootRequest(1, parent._replace(address="127.0.0.1:1"), 5))
    except BootError as error:
        assert "disconnected" in str(error)
        assert lost != "DELETE"
    else:
        node.stop()
        assert lost == "DELETE"
    assert docker.broken == {lost: 0}
    assert docker.containers == {}


def test_what_a_runner_said_before_it_ended_can_be_read(docker: FakeDocker, make_backend: MakeBackend) -> None:
    """So it is in the error of its boot. This one is not told where to dial."""
    node = make_backend().boot(BootRequest(1, Parent.new("pool", 1, "docker"), 5))
    (container,) = docker.containers.values()
    assert container.process is not None
    container.process.wait()
    said = "dragonfly runner: DRAGONFLY_PARENT lacks the parent's address or the token"
    assert node.output() == said
    assert str(node.ended(5)) == f"the container ended with status 1 (phase: connect, attempts: 1)\n{said}"
    node.stop()
    assert node.output() == ""
    assert "No such container" in str(node.ended(5))


def test_a_runner_that_ends_while_it_boots_is_not_waited_for(docker: FakeDocker, make_backend: MakeBackend) -> None:
    """Its interpreter does not get as far as to look who its parent is."""
    with DragonflyExecutor(
        backend=make_backend(env={"PYTHONHOME": "/nowhere"}), max=1, max_boot_failures=1
    ) as executor:
        error = executor.submit(pow, 2, 2).exception()
    assert isinstance(error, BootError)
    assert not isinstance(error, TimeoutError)
    assert "the container ended with status 1 (phase: connect" in str(error)
    assert "No module named 'encodings'" in error.output
    assert docker.containers == {}


def test_a_runner_that_may_yet_come_is_waited_for(docker: FakeDocker, make_backend: MakeBackend) -> None:
    """It dials an address where nobody answers."""
    parent = Parent.new("pool", 1, "docker")._replace(address="127.0.0.1:1", fingerprint="00" * 32, token="00" * 32)
    node = make_backend().boot(BootRequest(1, parent, 5))
    assert node.ended(0.1) is None
    node.stop()


def test_an_engine_that_is_not_there_is_a_boot_error(tmp_path: Path, make_backend: MakeBackend) -> None:
    backend = make_backend(socket=str(tmp_path / "nowhere"))
    with warnings.catch_warnings():
        # httpx leaves a unix socket that could not be connected to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(BootError, match="no container of app:1 could be started"):
            backend.boot(BootRequest(1, Parent.new("pool", 1, "docker"), 5))
        gc.collect()
