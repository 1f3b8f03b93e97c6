"""Run the examples, and write what they print to docs/outputs/, and into the notebook: the site shows it beside each.

    python docs/record_outputs.py [NAME ...]

It needs the extras `test` and `examples`, sshd, and Slurm; for these it starts hosts and a cluster as the tests do.
Process numbers and times differ from run to run, so no test compares them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "outputs"
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def run(name: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Return what an example prints. What it prints to stderr, such as a bar, is part of it."""
    command = [sys.executable, f"examples/{name}.py", *arguments]
    ran = subprocess.run(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return ran.stdout


def ask(script: str, *arguments: str, requests: Mapping[str, bytes | None]) -> str:
    """Start a web application on a free port, and return what it answers. Bytes are posted."""
    from imageio_ffmpeg import get_ffmpeg_exe

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "ffmpeg").symlink_to(get_ffmpeg_exe())
        env = {**os.environ, "HOST": "127.0.0.1", "PORT": "0", "PATH": f"{folder}:{os.environ['PATH']}"}
        command = [sys.executable, script, *arguments]
        with subprocess.Popen(
            command, cwd=ROOT, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as server:
            if server.stderr is None:
                raise RuntimeError("stderr is not a pipe")
            try:
                address = next(found[0] for line in server.stderr if (found := re.search(r"http://[\d.:]+", line)))
                return "".join(_exchange(address, path, data) for path, data in requests.items())
            finally:
                server.send_signal(signal.SIGINT)
                server.stderr.read()


def _exchange(address: str, path: str, data: bytes | None) -> str:
    with urlopen(Request(address + path, data)) as answer:  # noqa: S310  # an address of ours
        body, is_text = answer.read(), answer.headers.get_content_type() == "application/json"
    posted = "" if data is None else "--data-binary @clip.mp4 --output clip.480p.mp4 "
    shown = body.decode() if is_text else f"(a video of {len(body)} bytes)"
    return f"$ curl {posted}localhost:8000{path}\n{shown}\n"


def on_ssh_hosts() -> str:
    """Return what the example prints with two hosts, which are sshd processes on this machine."""
    from tests.support.sshd.host import Host, make_bare_python, make_key
    from tests.support.sshd.user_home import make_home

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key, python = make_key(folder / "id"), make_bare_python(folder / "python")
        hosts = {host: Host(folder / host, key, [python]) for host in ("gpu1", "gpu2")}
        try:
            for host in hosts.values():
                host.start()
            printed = run("ssh_hosts", *hosts, env={**os.environ, "HOME": str(make_home(folder / "user", key, hosts))})
        finally:
            for host in hosts.values():
                host.stop()
    return f"$ python examples/ssh_hosts.py {' '.join(hosts)}\n{printed}"


def in_slurm() -> str:
    """Return what the example prints in a cluster of this machine."""
    from tests.support.slurm_cluster import slurm_cluster

    with tempfile.TemporaryDirectory(prefix="slurm") as folder, slurm_cluster(Path(folder)) as cluster:
        printed = run("slurm_jobs", "host=127.0.0.1", "time=10", env={**cluster.env, "HOME": folder})
    return f"$ python examples/slurm_jobs.py time=10\n{printed}"


def execute_notebook() -> None:
    """Run the notebook, and store the outputs of its cells in it."""
    import nbclient
    import nbformat

    cells = json.loads(NOTEBOOK.read_text())
    executed = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(executed, kernel_name="python3").execute()
    for cell, ran in zip(cells["cells"], json.loads(nbformat.writes(executed))["cells"], strict=True):
        if cell["cell_type"] == "code":
            cell |= {"execution_count": ran["execution_count"], "outputs": ran["outputs"]}
    NOTEBOOK.write_text(json.dumps(cells, indent=1, ensure_ascii=False) + "\n")


CLIP = ROOT / "examples" / "media" / "bigbuckbunny.mp4"
EXAMPLES: dict[str, Callable[[], str]] = {
    name: partial(run, name)
    for name in (
        "asyncio_calls", "asyncio_timeout_cancel", "model_worker", "progress", "streams", "swap_multiprocessing_pool",
        "swap_process_pool", "sweep", "trio_calls",
    )
} | {
    "fly_app": lambda: ask("examples/fly_app/app.py", requests={"/transcode": CLIP.read_bytes(), "/where": None}),
    "slurm_jobs": in_slurm,
    "ssh_hosts": on_ssh_hosts,
    "web_app": lambda: ask(
        "examples/web_app.py", "--port", "0", requests={"/primes/200000": None, "/where": None}
    ),
}  # fmt: skip
"""What an example prints, by its name. The notebook has its outputs itself."""


def main(names: list[str]) -> None:
    """Record the outputs of these examples, or of all."""
    sys.path.insert(0, str(ROOT))
    FOLDER.mkdir(exist_ok=True)
    for name in names or [*EXAMPLES, "notebook"]:
        if name == "notebook":
            execute_notebook()
        else:
            (FOLDER / f"{name}.txt").write_text(EXAMPLES[name]().replace(str(ROOT), "."))


if __name__ == "__main__":
    main(sys.argv[1:])
