"""The checks before a release: `tox -e release`, or `python -m tests.support.release` with the extra `release`.

Builds sdist and wheel from what git knows, checks both, installs each in an empty environment on each supported Python
that is found here, and runs both commands of the README in the unpacked sdist. The files are then in dist/.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
PROGRAM = """
from dragonfly_executor import DragonflyExecutor
with DragonflyExecutor(2) as executor:
    print(sum(executor.map(lambda number: number * number, range(10))))
"""


def run(*command: str | Path, cwd: Path, shown: bool = False) -> str:
    """Run a command that knows nothing of this checkout or of this environment, and return or show what it prints."""
    print("+", *command, flush=True)
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    stdout = None if shown else subprocess.PIPE
    return subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, text=True, check=True
    ).stdout


def interpreters() -> dict[str, Path]:
    """Return the supported Pythons that are found here: on PATH, or among pyenv's."""
    found = {}
    for version in VERSIONS:
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        candidates = [shutil.which(f"python{version}"), *pyenv.glob(f"{version}.*/bin/python")]
        for candidate in filter(None, candidates):
            # A shim on PATH may lead nowhere.
            asked = "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
            ran = subprocess.run([candidate, "-c", asked], capture_output=True, text=True, check=False)
            if ran.stdout.strip() == version:
                found[version] = Path(candidate)
                break
    return found


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist from what git knows, and the wheel from the sdist. Return both."""
    source = folder / "source"
    source.mkdir()
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", source, cwd=folder)
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    if not wheel.name.endswith("-py3-none-any.whl"):
        raise SystemExit(f"{wheel.name} is not a wheel of pure Python")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=folder)
    return sdist, wheel


def install(version: str, python: Path, built: Path, folder: Path) -> None:
    """Install a file in an empty environment, and run a program and the command there."""
    clean = folder / f"{version}-{built.suffix.strip('.')}"
    run(python, "-m", "venv", clean, cwd=folder)
    run(clean / "bin" / "python", "-m", "pip", "install", "-q", built, cwd=folder)
    if run(clean / "bin" / "python", "-W", "error", "-c", PROGRAM, cwd=folder) != "285\n":
        raise SystemExit(f"{built.name} does not work on {python}")
    print(run(clean / "bin" / "dragonfly", "--version", cwd=folder), end="")


def readme_commands() -> list[str]:
    """Return the two commands of the README."""
    text = (ROOT / "README.md").read_text()
    return [block.strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all checks, and leave the files in dist/."""
    parser = argparse.ArgumentParser(prog="release", description="The checks before a release.")
    parser.add_argument("--tests", default="", metavar="ARGUMENTS", help="added to the README's pytest command")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dragonfly-release-") as name:
        folder = Path(name)
        sdist, wheel = build(folder)
        found = interpreters()
        print(f"not found, so not checked: {', '.join(v for v in VERSIONS if v not in found) or 'none'}")
        for version, python in found.items():
            for built in (wheel, sdist):
                install(version, python, built, folder)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        unpacked = folder / sdist.name.removesuffix(".tar.gz")
        for command in readme_commands():
            more = options.tests if "pytest" in command else ""
            run("bash", "-c", f"{command} {more}", cwd=unpacked, shown=True)
        (ROOT / "dist").mkdir(exist_ok=True)
        for built in (sdist, wheel):
            shutil.copy(built, ROOT / "dist")
    print(f"ready: dist/{sdist.name}, dist/{wheel.name}")


if __name__ == "__main__":
    main()
