"""The script that records the README's picture, on a program that writes as progress bars do."""

from __future__ import annotations

import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "record_picture.py"
SVG = "{http://www.w3.org/2000/svg}"
PROGRAM = """
import sys, time
print("before <all>")
for done in ("0 of 2", "1 of 2", "2"):
    print(end=f"\\r{done}", flush=True)
    time.sleep(0.2)
print("\\n\\x1b[32mdone\\x1b[0m")
"""


def lines(picture: Path) -> list[tuple[str, float, float]]:
    """Return the lines of a picture, each with the times at which it comes and goes."""
    found = []
    for text in ElementTree.parse(picture).iter(f"{SVG}text"):
        change = text.find(f"{SVG}set")
        assert change is not None
        begin = float(change.attrib["begin"].removeprefix("all.begin+").removesuffix("s"))
        end = begin + float(change.attrib["dur"].removesuffix("s"))
        found.append((text.text or "", begin, round(end, 1)))
    return found


def test_lines_come_and_are_overwritten_when_the_program_does_that(tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    subprocess.run([sys.executable, SCRIPT, picture, sys.executable, "-c", PROGRAM], check=True)
    seen = lines(picture)
    end = max(last for _, _, last in seen)
    assert [text for text, _, last in seen if last == end][1:] == ["before <all>", "2 of 2", "done"]
    bar = sorted((begin, last, text) for text, begin, last in seen if text.endswith("of 2"))
    assert [text for _, _, text in bar] == ["0 of 2", "1 of 2", "2 of 2"]
    assert all(round(after[0], 1) == before[1] for before, after in pairwise(bar))


def test_a_program_that_fails_makes_no_picture(tmp_path: Path) -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    with pytest.raises(RuntimeError, match="ended with status 3"):
        script["main"]([str(tmp_path / "picture.svg"), sys.executable, "-c", "raise SystemExit(3)"])
    assert list(tmp_path.iterdir()) == []
