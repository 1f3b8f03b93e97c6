"""The plots are well-formed, say in words what they show, and those in the docs are made from the figures there."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.plots import RATIOS, bar_of, bars, bytes_text, draw, growth, seconds_text
from benchmarks.render import FOLDER, PAGE, TABLES, filled, main
from benchmarks.results import Results
from benchmarks.subjects import BASELINE, OURS, POOL, SOCKETS
from benchmarks.svg import Drawing, LogScale

NAME = "{http://www.w3.org/2000/svg}"


def example() -> Results:
    figures: dict[str, dict[str, list[float | None]]] = {
        "submits": {BASELINE: [10.0], OURS: [70.0], POOL: [30.0], SOCKETS: [120.0]},
        "round_trip_p50": {BASELINE: [1.0], OURS: [0.5], POOL: [2.0]},
        "memory": {BASELINE: [1.0], OURS: [None]},
    }
    curves = {"curve_sizes": {OURS: [[[1, 1e-4], [8, 1e-4], [1 << 30, 2.0]]], BASELINE: [[[1, 2e-4]]]}}
    return Results(rows=figures, curves=curves, machine={"cpus": 2})


def test_more_is_better_in_each_bar() -> None:
    rate, time = bar_of(example(), "submits"), bar_of(example(), "round_trip_p50")
    assert rate is not None
    assert time is not None
    assert (rate.ours, rate.target, rate.limit, rate.peers) == (7.0, 6.0, 12.0, {POOL: 3.0})
    assert (time.ours, time.peers) == (2.0, {POOL: 0.5})
    assert time.target == pytest.approx(1 / 0.45)
    assert bar_of(example(), "memory") is None


def test_a_plot_has_a_title_and_tells_its_figures_in_words() -> None:
    for image in (bars(example()), growth(example(), "curve_sizes")):
        root = ET.fromstring(str(image))
        assert root.get("role") == "img"
        assert root.get("aria-labelledby") == "title description"
        assert root.find(f"{NAME}title[@id='title']") is not None
        told = root.findtext(f"{NAME}desc") or ""
        assert OURS in told
        texts = [text.text for text in root.iter(f"{NAME}text")]
        assert OURS in texts
        assert "prefers-color-scheme: dark" in (root.findtext(f"{NAME}style") or "")
    assert "1 B to 1 GiB" in told
    assert "100 µs to 2 s" in told


def test_a_longer_bar_is_a_larger_ratio() -> None:
    widths = [
        float(shape.get("width", 0))
        for shape in ET.fromstring(str(bars(example()))).iter(f"{NAME}rect")
        if shape.get("class") == "c0 fill" and (shape.findtext(f"{NAME}title") or "").startswith(OURS)
    ]
    assert widths[0] > widths[1] > 1


def test_texts_are_escaped() -> None:
    image = Drawing(10, 10, "a < b", "c & d")
    image.text(1, 2, "<script>", 'x" y')
    root = ET.fromstring(str(image))
    assert [text.text for text in root.iter(f"{NAME}text")] == ["<script>"]


def test_a_logarithmic_axis_has_round_ticks_and_keeps_values_within() -> None:
    axis = LogScale(0.3, 30, 0, 100)
    assert axis.ticks() == [0.5, 1, 2, 5, 10, 20]
    assert axis.place(3) == pytest.approx(50)
    assert (axis.place(0.01), axis.place(1000)) == (0, 100)


def test_values_have_units() -> None:
    assert [seconds_text(value) for value in (2e-6, 0.001, 1.0)] == ["2 µs", "1 ms", "1 s"]
    assert [bytes_text(value) for value in (1, 512, 4096, 1 << 20, 1 << 30)] == [
        "1 B",
        "512 B",
        "4 KiB",
        "1 MiB",
        "1 GiB",
    ]


def test_tables_are_written_between_their_marks(tmp_path: Path) -> None:
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text("before\n" + "".join(f"<!-- {name} -->\nold\n<!-- end of {name} -->\nkept\n" for name in TABLES))
    example().write(figures)
    assert main(["--json", str(figures), "--page", str(page), "--svg", str(tmp_path)]) == 0
    text = page.read_text()
    assert "old" not in text
    assert text.count("kept") == len(TABLES)
    assert "| no-op submits | 70.0 calls/s |" in text
    assert (tmp_path / f"{RATIOS}.svg").read_text() == draw(example())[RATIOS]
    with pytest.raises(LookupError, match="no place for run"):
        filled("nothing", example())


def test_the_plots_and_tables_of_the_docs_are_made_from_the_figures_of_the_docs() -> None:
    """Whoever changes the figures, the page or the writer runs ``python -m benchmarks.render``."""
    figures = Results.read(FOLDER / "figures.json")
    plots = draw(figures)
    assert {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.svg")} == plots
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, figures) == page
    assert [name for name in plots if f"benchmarks/{name}.svg" not in page] == []
