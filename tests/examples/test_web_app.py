"""The web application: a real server process, asked over HTTP."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.examples.conftest import EXAMPLES

for needed in ("starlette", "uvicorn"):
    pytest.importorskip(needed, reason=f"the web application needs {needed}, which is in the extra 'examples'")
httpx = pytest.importorskip("httpx", reason="the test asks over HTTP with httpx, which is in the extra 'examples'")

pytestmark = pytest.mark.slow


@pytest.fixture(params=["script", "import"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The application, started in both of the ways that its docstring names, and stopped by Ctrl-C."""
    command = {
        "script": [str(EXAMPLES / "web_app.py"), "--port", "0"],
        "import": ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", "0", "web_app:app"],
    }[request.param]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    with process, process.stderr as log:
        try:
            address = next(found[0] for line in log if (found := re.search(r"http://[\d.:]+", line)))
            with httpx.Client(base_url=address, timeout=30) as client:
                yield client
        finally:
            process.send_signal(signal.SIGINT)
            rest = log.read()
    assert "Traceback" not in rest, rest
    assert "Application shutdown complete" in rest


def test_requests_are_answered_by_runners_that_serve_nothing_themselves(server: Any) -> None:
    assert server.get("/primes/100000").json() == {"below": 100_000, "primes": 9592}
    where = server.get("/where").json()
    assert (where["server"]["runner"], where["server"]["serves"]) == (None, True)
    assert where["runner"]["pool"] == "numbers"
    assert where["runner"]["asked_for"] == "/where"
    assert where["runner"]["serves"] is False
    assert where["runner"]["pid"] != where["server"]["pid"]
    stats = server.get("/stats").json()
    assert stats["calls_done"] == 2
