"""What a release says of itself agrees: the Pythons in the classifiers, in tox, in CI and in the policy."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from tests.support import release

ROOT = Path(__file__).parents[2]


def test_the_same_pythons_stand_everywhere() -> None:
    setup, tox = configparser.ConfigParser(), configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    tox.read(ROOT / "tox.ini")
    classified = re.findall(r"Python :: (3\.\d+)$", setup["metadata"]["classifiers"], re.MULTILINE)
    tested = [f"3.{minor}" for minor in re.findall(r"py3(\d+)", tox["tox"]["env_list"])]
    (ci,) = re.findall(r"^for version in (.*); do$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert classified == tested == ci.split()
    assert set(classified) <= set(release.VERSIONS)
    listed = f"{', '.join(classified[:-1])} and {classified[-1]}"
    assert f"Today: {listed}." in (ROOT / "docs" / "policy.md").read_text()
    assert setup["options"]["python_requires"] == f">={classified[0]}"


def test_the_release_runs_both_commands_of_the_readme() -> None:
    transcode, tests = release.readme_commands()
    assert "examples/transcode.py" in transcode
    assert "-m pytest" in tests


def test_issue_templates_name_files_that_exist() -> None:
    for template in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"):
        text = template.read_text()
        assert text.startswith("---\nname: ")
        assert [page for page in re.findall(r"docs/[\w-]+\.md", text) if not (ROOT / page).exists()] == []
