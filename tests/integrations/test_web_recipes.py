"""The recipes of docs/web.md, as they stand there: in real servers, task queues and test runners."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import PATIENCE

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

PAGE = Path(__file__).parent.parent.parent / "docs" / "web.md"
PRIMES = {"100": 25, "1000": 168, "10000": 1229}


def need(*names: str) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed here: pip install -e '.[web]'")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == len(dict(blocks)) >= 8
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    return tmp_path


class Server:
    """A server process and the address that its log names."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self.port = 0

    def read_until(self, pattern: str) -> re.Match[str]:
        """Read the log up to a line that matches."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(pattern, line):
                return found
        pytest.fail("".join(self.said))

    def wait_until_it_listens(self) -> None:
        """With --reload, uvicorn writes nothing when it listens, which is some moments after its last line."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, self.said
                time.sleep(0.02)

    def get(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2 * PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
            assert response.status == 200, (text, self.said)
            return text
        finally:
            connection.close()


@contextmanager
def serving(folder: Path, *command: str, stop: int = signal.SIGINT, **environment: str) -> Iterator[Server]:
    """Run a server until the end of the block. It must end in order; the census sees to its runners."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Server(process)
    assert process.stderr is not None
    try:
        yield server
    finally:
        process.send_signal(stop)
        try:
            _, rest = process.communicate(timeout=2 * PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        server.said.append(rest)
    assert "Traceback" not in "".join(server.said), "".join(server.said)


def free_port() -> int:
    """Return a free port. With --reload, uvicorn does not name the port that it took."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def listen(server: Server) -> None:
    server.port = int(server.read_until(r"http://127\.0\.0\.1:(\d+)")[1])


def test_fastapi_lifespan(folder: Path) -> None:
    need("fastapi", "uvicorn")
    with serving(folder, "uvicorn", "--port", "0", "fastapi_app:app") as server:
        listen(server)
        for below, primes in PRIMES.items():
            assert json.loads(server.get(f"/primes/{below}")) == {"primes": primes}
    assert "Application shutdown complete" in "".join(server.said)


def test_uvicorn_reload(folder: Path) -> None:
    need("fastapi", "uvicorn")
    port = free_port()
    with serving(folder, "uvicorn", "--port", str(port), "--reload", "fastapi_app:app") as server:
        server.port = port
        server.read_until("Application startup complete")
        server.wait_until_it_listens()
        assert json.loads(server.get("/primes/100")) == {"primes": 25}
        work = folder / "work.py"
        work.write_text(work.read_text().replace("return sum(sieve)", "return -sum(sieve)"))
        server.read_until("Application shutdown complete")
        server.read_until("Application startup complete")
        server.wait_until_it_listens()
        assert json.loads(server.get("/primes/100")) == {"primes": -25}


@pytest.mark.parametrize("preload", [False, True], ids=["without preload", "preload"])
def test_gunicorn(folder: Path, preload: bool) -> None:
    need("gunicorn")
    options = ["--workers", "2", "--bind", "127.0.0.1:0", *(["--preload"] if preload else [])]
    with serving(folder, "gunicorn", *options, "wsgi_app:app", stop=signal.SIGTERM) as server:
        listen(server)
        for below, primes in PRIMES.items():
            for _ in range(3):  # both workers, as it comes
                assert server.get(f"/{below}") == f"{primes}\n"


def test_gunicorn_refuses_a_pool_that_was_made_before_the_fork(folder: Path) -> None:
    """The first rule of the page."""
    need("gunicorn")
    (folder / "wsgi_app.py").write_text(
        (folder / "wsgi_app.py").read_text()
        + "\n\npool().call(count_primes, 10)\n"
        + "def too_early(environ, start_response):\n"
        + "    try:\n"
        + "        pool().call(count_primes, 10)\n"
        + "    except RuntimeError as error:\n"
        + "        start_response('200 OK', [])\n"
        + "        return [type(error).__name__.encode()]\n"
    )
    options = ["--workers", "1", "--bind", "127.0.0.1:0", "--preload"]
    with serving(folder, "gunicorn", *options, "wsgi_app:too_early", stop=signal.SIGTERM) as server:
        listen(server)
        assert server.get("/") == "ForkedExecutorError"


SETTINGS = """
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "site_urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
"""


def test_django_under_gunicorn(folder: Path) -> None:
    need("django", "gunicorn")
    (folder / "site_settings.py").write_text(SETTINGS)
    (folder / "site_wsgi.py").write_text(
        "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"
    )
    named = {"DJANGO_SETTINGS_MODULE": "site_settings"}
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "-v", "0"],
        cwd=folder,
        env=os.environ | named | {"PYTHONPATH": str(folder)},
        check=True,
    )
    options = ["--workers", "1", "--bind", "127.0.0.1:0", "--preload"]
    with serving(folder, "gunicorn", *options, "site_wsgi:application", stop=signal.SIGTERM, **named) as server:
        listen(server)
        assert json.loads(server.get("/add/ada")) == {"key": 1}
        assert json.loads(server.get("/add/grace")) == {"key": 2}
        assert json.loads(server.get("/count")) == {"users": 2}


def test_celery_prefork(folder: Path) -> None:
    need("celery")
    (folder / "messages").mkdir()
    (folder / "results").mkdir()
    named = {"BROKER": "filesystem://", "BACKEND": "file://results"}
    program = (
        "from tasks import primes\n"
        "results = [primes.delay(n) for n in (100, 1000, 10000)]\n"
        "print([result.get(timeout=60) for result in results])\n"
    )
    command = ["celery", "--app", "tasks", "worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO"]
    with serving(folder, *command, stop=signal.SIGTERM, **named) as server:
        server.read_until(r" ready\.")
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder,
            env=os.environ | named | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.stdout == f"{[*PRIMES.values()]}\n", (ran.stderr, server.said)


def test_pytest_xdist(folder: Path) -> None:
    need("xdist")
    environment: dict[str, Any] = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
    } | {"PYTHONPATH": str(folder)}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--basetemp", str(folder / "temporary"), "test_primes.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 passed" in ran.stdout, ran.stdout + ran.stderr
