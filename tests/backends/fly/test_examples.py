"""The examples for Fly, as they stand, against the simulator: real videos, real ffmpegs, real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import Parent
from dragonfly_executor.protocol.parent import VARIABLE
from tests.support.fly_simulator.images import Image
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import Gate, Mailbox

httpx = pytest.importorskip("httpx", reason="the tests ask over HTTP with httpx, which is in the extra 'test'")
imageio_ffmpeg = pytest.importorskip(
    "imageio_ffmpeg", reason="the examples need imageio-ffmpeg, which is in the extra 'examples'"
)
pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[3] / "examples"
VIDEO = EXAMPLES / "media" / "bigbuckbunny.mp4"
APP = EXAMPLES / "fly_app"


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    """A second of something."""
    video = tmp_path / "clip.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:duration=1"]
    subprocess.run([*command, video], stdin=subprocess.DEVNULL, check=True)
    return video.read_bytes()


def make_image(fly: Simulator, folder: Path, ffmpeg: str) -> str:
    """The application's image: its Dockerfile, as far as a machine notices. `ffmpeg` is what that program does."""
    bin_folder = folder / "usr-bin"
    bin_folder.mkdir()
    program = bin_folder / "ffmpeg"
    program.write_text(f'#!/bin/sh\n{ffmpeg}\nexec "{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"\n')
    program.chmod(0o755)
    usual = fly.images[fly.image].env
    dockerfile = (APP / "Dockerfile").read_text()
    assert "ENV PYTHONPATH=/app " in dockerfile
    assert all(f" {module}" in dockerfile for module in ("app.py", "jobs.py"))
    env = {**usual, "PATH": f"{bin_folder}:{usual['PATH']}", "PYTHONPATH": str(APP)}
    name = "registry.fly.io/media:deployment-app"
    fly.images[name] = Image(env, cmd=("python", "app.py"), workdir=str(APP))
    return name


@contextmanager
def serving(fly: Simulator, image: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The application as it runs on the parent's machine, and its address."""
    env = {**os.environ, **fly.environment, "FLY_IMAGE_REF": image, "HOST": "127.0.0.1", "PORT": "0"}
    env |= {"PYTHONPATH": str(APP), "XDG_STATE_HOME": str(tmp_path / "state")}
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=APP, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    rest = ""
    with process, process.stderr as log:
        try:
            address = next(found[0] for line in log if (found := re.search(r"http://[\d.:]+", line)))
            yield process, address
        finally:
            process.send_signal(signal.SIGTERM)
            rest = log.read()
    assert "Traceback" not in rest, rest
    assert "Application shutdown complete" in rest


def height(video: bytes, tmp_path: Path) -> int:
    path = tmp_path / "result.mp4"
    path.write_bytes(video)
    report = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True).stderr
    found = re.search(r"Video: .* \d+x(\d+)", report)
    assert found is not None, report
    return int(found[1])


def test_an_upload_is_transcoded_on_a_machine_of_the_same_image(fly: Simulator, tmp_path: Path, clip: bytes) -> None:
    """The machine does not serve, does not know the token, and is gone with the application."""
    with (
        serving(fly, make_image(fly, tmp_path, ":"), tmp_path) as (_, address),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        answer = client.post("/transcode", content=clip)
        assert answer.status_code == 200, answer.text
        assert height(answer.content, tmp_path) == 480
        refused = client.post("/transcode", content=b"no video")
        assert refused.status_code == 422
        assert "Invalid data" in refused.json()["error"]
        assert client.post("/transcode", content=bytes(64 * 2**20 + 1)).status_code == 413
        machine = fly.machine()
        where = client.get("/where").json()
        assert where["server"] == {"machine": fly.parent.id, "runner": None, "knows_the_token": True}
        assert where["runner"] == {"machine": machine.id, "runner": 1, "knows_the_token": False}
        stats = client.get("/stats").json()
        assert stats["machine_seconds"] > 0
        assert stats["cost"] > 0
        assert machine.config["guest"] == {"cpu_kind": "performance", "cpus": 4, "memory_mb": 8192}
    assert fly.history.left == []


@contextmanager
def transcoding(
    fly: Simulator, tmp_path: Path, clip: bytes, mailbox: Mailbox, gate: Gate
) -> Iterator[tuple[subprocess.Popen[str], str, Future[Any]]]:
    """Yield the server, its address, and an answer that comes once the gate opens: ffmpeg is at it."""
    image = make_image(fly, tmp_path, f'echo at it > "{mailbox.path}"\nhead -c 1 "{gate.path}" > /dev/null')
    with serving(fly, image, tmp_path) as (process, address), ThreadPoolExecutor(1) as threads:
        answer = threads.submit(httpx.post, f"{address}/transcode", content=clip, timeout=60)
        assert mailbox.read() == "at it"
        yield process, address, answer


def test_a_deploy_lets_calls_that_run_finish(
    fly: Simulator, tmp_path: Path, clip: bytes, mailbox: Mailbox, gate: Gate
) -> None:
    """SIGTERM while ffmpeg is at it."""
    with transcoding(fly, tmp_path, clip, mailbox, gate) as (process, _, answer):
        process.send_signal(signal.SIGTERM)
        assert not answer.done()
        gate.open()
        assert answer.result().status_code == 200
    assert fly.history.left == []


def test_a_runner_that_is_lost_is_an_answer(
    fly: Simulator, tmp_path: Path, clip: bytes, mailbox: Mailbox, gate: Gate
) -> None:
    """Its machine is gone in the middle of the work, and the application goes on."""
    with transcoding(fly, tmp_path, clip, mailbox, gate) as (_, address, answer):
        fly.destroy(fly.machine())
        assert answer.result().status_code == 503
        assert "runner 1" in answer.result().json()["error"]
        assert httpx.get(f"{address}/where", timeout=60).json()["runner"]["runner"] == 2
    assert fly.history.left == []


def test_a_runner_does_not_serve(tmp_path: Path) -> None:
    """Whatever starts the application there: `Parent.get` says that it is a runner."""
    env = {**os.environ, VARIABLE: Parent.new("media", 1, "fly").encode(), "HOST": "127.0.0.1", "PORT": "0"}
    done = subprocess.run([sys.executable, str(APP / "app.py")], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_transcoder_runs_on_fly(fly: Simulator, tmp_path: Path) -> None:
    """The script travels to machines of its own image; the frames are counted against the original's."""
    result = tmp_path / "result.mp4"
    arguments = ["--backend", "fly", "--runners", "2", "--slots", "1", "--quiet", "--no-comparison"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "transcode.py"), *arguments, "--output", str(result)],
        cwd=tmp_path,
        env={**os.environ, **fly.environment, "XDG_STATE_HOME": str(tmp_path / "state")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"runners +2 ", done.stdout), done.stdout
    assert re.search(r"cost +about 0\.\d+ USD, an estimate by prices as of \d{4}-\d\d", done.stdout), done.stdout
    assert re.search(r"result .*132 frames", done.stdout), done.stdout
    assert len(fly.world.booted) == 2
    assert fly.history.left == []
