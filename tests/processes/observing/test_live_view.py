"""A pool in a notebook: a widget that is refreshed, in a real kernel. nbclient stands for the front end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor import Pool
from dragonfly_executor.api import live_view
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakePool
from tests.support.helpers import PATIENCE, becomes_true
from tests.support.payloads import echo

for needed in ("ipykernel", "ipywidgets", "nbclient"):
    pytest.importorskip(needed, reason=f"this needs {needed}, which is in the extra 'examples'")

CELLS = (
    """
import threading, time
from dragonfly_executor import DragonflyExecutor, Pool
def views(): return [thread.name for thread in threading.enumerate() if thread.name.endswith("-view")]
pool = Pool("shown", min=0, max=1, timeout=None)
executor = DragonflyExecutor(pool=pool)
pool""",
    "executor",  # the same view
    """
assert views() == ["dragonfly-shown-view"]
future = pool.submit(pow, 2, 10)
while "1 done" not in pool._view.widget.value:  # a cell that runs: the kernel's own loop waits
    time.sleep(0.05)
thread = pool._view._thread""",
    """
pool.shutdown()
thread.join()
print(views(), "shutdown" in pool._view.widget.value)
pool""",
    """
own = DragonflyExecutor(1)
own.pool.live_bundle("own")
thread = own.pool._view._thread
del own
import gc; gc.collect()
thread.join()
print(views())""",
)
EXECUTE = """
import json, sys, nbclient, nbformat
cells = [nbformat.v4.new_code_cell(cell) for cell in json.loads(sys.argv[1])]
notebook = nbformat.v4.new_notebook(cells=cells)
client = nbclient.NotebookClient(notebook, timeout=50, kernel_name="python3", store_widget_state=True)
client.execute()
print(json.dumps([cell["outputs"] for cell in notebook.cells]))
print(json.dumps(client.widget_state))
"""
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.mark.slow
def test_a_pool_shows_itself_live_in_a_notebook(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", EXECUTE, json.dumps([cell.strip() for cell in CELLS])],
        env={**os.environ, "IPYTHONDIR": str(tmp_path), "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    outputs, state = map(json.loads, ran.stdout.splitlines())
    pool, executor, _, ended, dropped = outputs
    shown: dict[str, Any] = pool[0]["data"]
    number = shown[WIDGET]["model_id"]
    assert executor[0]["data"][WIDGET]["model_id"] == number
    # A front end without widgets shows the HTML, and a terminal the text.
    assert "<table>" in "".join(shown["text/html"])
    assert "".join(shown["text/plain"]).startswith("<Pool 'shown': ")
    # What the front end has got at last.
    assert "1 done" in state[number]["value"]
    assert "".join(ended[0]["text"]) == "[] True\n"
    # A pool that has ended does not change any more.
    assert WIDGET not in ended[1]["data"]
    assert "".join(dropped[0]["text"]) == "[]\n"


def in_kernel(monkeypatch: pytest.MonkeyPatch, *, is_initialized: bool) -> None:
    """Have this process look like a kernel, or like a program that has only imported its package."""
    application = SimpleNamespace(initialized=lambda: is_initialized)
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", SimpleNamespace(IPKernelApp=application))  # type: ignore[arg-type]


def test_there_is_no_widget_outside_of_a_kernel(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Pool = make_pool()
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert pool._repr_mimebundle_() == {}
    in_kernel(monkeypatch, is_initialized=False)
    assert pool._repr_mimebundle_() == {}
    assert pool._view is None
    assert "<table>" in pool._repr_html_()


def test_without_ipywidgets_a_kernel_shows_html(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    in_kernel(monkeypatch, is_initialized=True)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert make_pool()._repr_mimebundle_() == {}


def test_a_view_ends_with_its_pool_and_with_its_widget(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kernel a widget has no front end, and works all the same."""
    monkeypatch.setattr(live_view, "PERIOD", 0.01)
    for end in ("shutdown", "widget", "close"):
        pool = make_pool(backend=FakeBackend())
        view = live_view.LiveView(pool, "a pool")
        assert pool.submit(echo, 1).result(PATIENCE) == 1
        assert becomes_true(pool, lambda view=view: "1 done" in view.widget.value)
        if end == "shutdown":
            pool.shutdown()
        elif end == "widget":
            view.widget.close()
        else:
            view.close()
        view._thread.join(PATIENCE)
        assert not view._thread.is_alive()
        view.widget.close()
