"""The command ``dragonfly doctor``, and what it finds."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import LocalBackend, __version__
from dragonfly_executor.backends.base import BOOT_FAILED
from dragonfly_executor.cli.doctor import command
from dragonfly_executor.cli.doctor.examine import Finding, examine
from dragonfly_executor.cli.main import main
from dragonfly_executor.testing import FakeBackend, FakeRunner

PHASES = ["create", "connect", "handshake"]


def test_a_healthy_machine_has_a_finding_for_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "this machine"
    found = [line.split("  ")[1].strip() for line in lines[1:]]
    assert found == [*PHASES, "first result", "node", "resources", "round trip", "bandwidth"]
    assert all(line[17:].startswith("ok") for line in lines[1:])


def test_figures_are_there_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["backend"], told["ok"]) == ("local", True)
    findings = {finding["name"]: finding for finding in told["hosts"]["this machine"]}
    assert findings["resources"]["figures"]["cpus"] >= 1
    assert findings["resources"]["figures"]["disk_free"] > 0
    assert findings["round trip"]["figures"]["seconds"] > 0
    assert findings["bandwidth"]["figures"]["bytes_per_second"] > 0
    assert all(finding["ok"] for finding in findings.values())


def test_what_fails_is_said_with_what_to_do_and_what_comes_after_is_not_reached(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--python", "/nowhere/python"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["create", "FAILED"]
    assert "/nowhere/python" in lines[1]
    assert any("→" in line for line in lines)
    assert [line.split()[:2] for line in lines[-2:]] == [["connect", "-"], ["handshake", "-"]]


def test_a_boot_that_fails_in_its_last_phase_has_come_through_those_before() -> None:
    findings = list(examine(FakeBackend(then=FakeRunner(python="3.9"))))
    assert [(finding.name, finding.ok) for finding in findings] == [
        ("create", True), ("connect", True), ("handshake", False),
    ]  # fmt: skip
    assert "3.9" in findings[-1].text
    assert findings[-1].advice


def test_what_the_backend_found_out_stands_beside_its_phase() -> None:
    class Telling(LocalBackend):
        def boot(self, request: Any) -> Any:
            node = super().boot(request)
            node.facts = {"connect": "over a very short wire"}
            return node

    findings = {finding.name: finding for finding in examine(Telling())}
    assert findings["connect"].text == "over a very short wire"
    assert findings["create"].text == ""


def test_a_full_disk_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.examine.__globals__["advice"], "LITTLE_DISK", 2**80)
    findings = {finding.name: finding for finding in examine(LocalBackend())}
    assert findings["disk"].ok is False


@pytest.mark.parametrize(
    "arguments",
    [[], ["doctor", "--backend", "moon"], ["doctor", "--timeout", "-1"], ["doctor", "somewhere"]],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_says_why(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: dragonfly" in capsys.readouterr().err


def test_it_is_a_module_and_a_script() -> None:
    command = [sys.executable, "-m", "dragonfly_executor", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"dragonfly_executor {__version__}\n"


# -- said once, and where it belongs -----------------------------------------------------------------------------------


def test_help_says_for_which_backends_a_command_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "show the nodes that pools have booted" in told
    assert "are for machines on Fly.io, and with --backend NAME for other backends" in told
    for command_name in ("list", "sweep", "destroy"):
        with pytest.raises(SystemExit):
            main([command_name, "--help"])
        told = " ".join(capsys.readouterr().out.split())
        assert "fly, or the name of an installed backend; default fly" in told
        assert "the Fly app" in told


def test_a_failure_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Its phase stands at the left, and the log has nothing to add."""
    assert main(["doctor", "--python", "/nowhere/python"]) == 1
    out, err = capfd.readouterr()
    assert err == ""
    assert "(phase: " not in out
    assert out.count("cannot start") == 1


def test_the_log_of_a_boot_that_failed_is_not_shown_beside_its_finding(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All other warnings are, unless the program has said what becomes of them."""
    logger = logging.getLogger("dragonfly_executor")

    def findings() -> Any:
        logger.warning("host %s is set aside", "h", extra=BOOT_FAILED)
        logger.warning("something %s", "else")
        logger.info("by the way")
        yield Finding("create", True, "fine")

    monkeypatch.setitem(command.PLACES, "local", lambda options: [("h", findings())])
    monkeypatch.setattr(logger, "propagate", False)
    assert main(["doctor"]) == 0
    out, err = capfd.readouterr()
    assert err == "dragonfly: something else\n"
    assert "fine" in out
    assert logger.handlers == []
    monkeypatch.setattr(logger, "propagate", True)
    assert main(["doctor"]) == 0
    assert capfd.readouterr().err == ""  # pytest's own handlers have it


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--app", "x"], "--app is for --backend fly, and this is --backend local"),
        (["--boot"], "--boot is for --backend fly"),
        (["--backend", "fly", "--known-hosts", "x"], "--known-hosts is for --backend ssh, and this is --backend fly"),
        (["--backend", "ssh", "--parent-address", "x", "h"], "--parent-address is for --backend fly"),
        (["--backend", "ssh", "--requirements", "/nowhere/file", "h"], "No such file or directory"),
        (["--requirements", "x"], "--requirements is for --backend ssh"),
    ],
)
def test_an_option_that_this_backend_does_not_have_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


# -- backends of other packages ----------------------------------------------------------------------------------------

PLUGIN = """
from dragonfly_executor import LocalBackend

class Mine(LocalBackend):
    name = "mine"

    def __init__(self, *, color, python=None):
        super().__init__(python=python, env={"COLOR": color})
        self._color = color

    def checks(self):
        from dragonfly_executor.backends.backend_check import BackendCheck

        yield BackendCheck("color", self._color != "none", f"it is {self._color}", "choose another one")

def nothing():
    return 7

def needy():
    raise ImportError("needy needs boto9: pip install boto9")
"""
POINTS = """
[dragonfly_executor.backends]
mine = plugin_of_the_doctors_tests:Mine
nothing = plugin_of_the_doctors_tests:nothing
needy = plugin_of_the_doctors_tests:needy
gone = plugin_of_the_doctors_tests:Gone
lost = no_such_package:Backend
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that is installed, with backends of its own."""
    (tmp_path / "plugin_of_the_doctors_tests.py").write_text(PLUGIN)
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("plugin_of_the_doctors_tests", None)


@pytest.mark.usefixtures("plugin")
def test_a_backend_of_another_package_is_examined(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--backend", "mine", "--set", "color=green", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["backend"], told["ok"]) == ("mine", True)
    findings = told["hosts"]["mine"]
    assert (findings[0]["name"], findings[0]["ok"], findings[0]["text"]) == ("color", True, "it is green")
    assert [finding["name"] for finding in findings][1:4] == PHASES


@pytest.mark.usefixtures("plugin")
def test_no_runner_is_booted_if_a_check_of_the_backend_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--backend", "mine", "--set", "color=none", "--json"]) == 1
    failed, boot = json.loads(capsys.readouterr().out)["hosts"]["mine"]
    assert (failed["ok"], failed["advice"]) == (False, "choose another one")
    assert (boot["name"], boot["ok"], boot["text"]) == ("boot", None, "not reached")


@pytest.mark.usefixtures("plugin")
def test_all_backends_are_named_to_a_user_who_asks_for_another(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--backend", "moon"])
    told = " ".join(capsys.readouterr().err.split()).partition("there are ")[2].partition(". ")[0].split(", ")
    assert {"local", "ssh", "fly", "slurm", "ec2", "gone", "lost", "mine", "nothing"} <= set(told)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["moon"], "there is no backend 'moon': there are local, ssh, fly, "),
        (["mine"], "cannot make the backend 'mine' (plugin_of_the_doctors_tests:Mine): TypeError"),
        (["mine"], "; it may need --set KEY=VALUE"),
        (["mine", "--set", "colour=green"], "(plugin_of_the_doctors_tests:Mine) with --set colour: TypeError"),
        (["mine", "--set", "colour=green"], "; correct the settings, or add more with --set KEY=VALUE"),
        (["needy"], "(plugin_of_the_doctors_tests:needy): an import failed: needy needs boto9: pip install boto9"),
        (["mine", "--set", "color"], "--set takes KEY=VALUE"),
        (["mine", "--set", "color=a", "--set", "color=b"], "--set color was given twice"),
        (["mine", "somewhere"], "takes no hosts"),
        (["mine", "--python", "python3"], "takes no --python"),
        (["mine", "--app", "x"], "--app is for --backend fly"),
        (["nothing"], "returned an object of type int, which is no Backend"),
        (["gone"], "cannot load the backend 'gone'"),
        (["lost"], "No module named 'no_such_package'"),
        (["local", "--set", "color=green"], "--set is for backends of other packages"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_with_a_backend_of_another_package_is_said(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--backend", *arguments])
    assert ended.value.code == 2
    assert text in " ".join(capsys.readouterr().err.split())
