"""The page of a sweep and its table for the terminal."""

import io
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from alphabar.report.svg import Line, plot
from alphabar.report.sweep_page import explanations, standing_words, sweep_table, ticks, write_page
from alphabar.results.sweeps import Row, Sweep, with_standings
from alphabar.sampling.samples import Samples
from alphabar.sampling.settings import LeftOut, Setting
from tests.fixtures.scores import made, scored
from tests.fixtures.sets import stripes

METHODS = [("ddim", 0.0), ("ddim", 1.0), ("heun", None), ("dpmpp_2m", None), ("unipc", None), ("ipndm", None), ("deis", None)]


@pytest.fixture
def big(tmp_path: Path) -> Sweep:
    """A sweep of 42 settings, with a KID below 0 among them."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(400)
    rows, measured = [], {}
    for (name, eta), calls in itertools.product(METHODS, (5, 8, 10, 15, 20, 50)):
        setting = Setting(name, calls, eta)
        fid = 1 + (60 + 5 * METHODS.index((name, eta))) / calls**1.3
        kid = (fid - 1.4) / 500
        samples = tmp_path / f"{setting.name}.npz"
        images = rng.integers(0, 256, (8, 9, 12, 3)).astype(np.uint8)
        Samples(images, {"n": 8}).save(samples)
        ends = (kid - 1e-3, kid + 1e-3)
        scores = {"fid": scored("fid", fid), "kid": scored("kid", kid, interval=ends, floor=0.0, floor_interval=None)}
        where = {"cpu": "a processor", "cores": 2, "device": "cpu", "processes": 1}
        rows.append(Row(setting, float(calls), 0.01 * calls, scores, {}, where, samples))
        one = made(fid, shared + 0.3 * rng.standard_normal(400), setting.name, ("fid", "kid"))
        measured[setting.name] = replace(one, scores=scores)
    rows.sort(key=lambda row: (row.calls, row.rank("fid")))
    rows = with_standings(rows, ("fid", "kid"), measured.__getitem__)
    left = [LeftOut("heun, eta 1", "", "it is deterministic & takes <no> eta")]
    protocol = {"n": 400, "seed": 3, "model": "m"}
    return Sweep(tmp_path, rows, left, protocol)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_shows_every_setting_and_works_offline(big: Sweep) -> None:
    path = write_page(big, ("fid", "kid"), "runs/garments", stripes(6, 0).pixels, 8)
    text = path.read_text()
    page = Page(text)
    # FID and KID against calls and seconds, each with a text for those who cannot see it that holds every value
    plots = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(plots) == 4
    for svg in plots:
        assert str(svg["aria-label"]).count(" at ") == len(big.rows)
    assert "slightly apart" in text
    assert "95 % interval" in text
    # the sheets: one strip a setting, and the real images, every one carried by the page
    images = page.all("img")
    assert len(images) == len(big.rows) + 1
    assert all(str(img["src"]).startswith("data:image/png;base64,") for img in images)
    assert "8 images sampled by ddim, eta 1, 5 calls." in {img["alt"] for img in images}
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert "http" not in text.replace("http://www.w3.org", "")
    assert "prefers-color-scheme: dark" in text
    # the table: a row a setting and the floor's; the marks are those of the standings
    body = text[text.index("<tbody>") : text.index("</tbody>")]
    assert body.count("<tr") == len(big.rows) + 1
    on = sum(row.standings["fid"][cost].on for row in big.rows for cost in ("calls", "seconds"))
    assert body.count("● front") == on
    assert "worse than ddim, eta 0 · 5" in body
    assert "it is deterministic &amp; takes &lt;no&gt; eta" in text
    assert "was stopped" not in text


def test_sheets_are_grouped_by_method(big: Sweep) -> None:
    text = write_page(big, ("fid",), "run", stripes(6, 0).pixels, 8).read_text()
    alts = re.findall(r'alt="8 images sampled by ([^"]*) calls', text)
    assert alts[:6] == [f"ddim, eta 0, {calls}" for calls in (50, 20, 15, 10, 8, 5)]
    assert len(alts) == len(set(alts)) == 42


def test_large_images_are_reduced_and_the_page_notes_it(big: Sweep, tmp_path: Path) -> None:
    row = big.rows[0]
    Samples(np.full((2, 130, 200, 1), 77, np.uint8), {"n": 2}).save(row.samples)
    text = write_page(replace(big, rows=big.rows[:1]), ("fid",), "run", stripes(6, 0).pixels, 8).read_text()
    assert "Images of 130 x 200 are shown at 1/4 of their size" in text


def test_the_table_marks_the_front(big: Sweep) -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(sweep_table(big, ("fid", "kid")))
    text = console.export_text()
    lines = [line for line in text.splitlines() if re.match(r"\s+\d+ ", line)]
    assert len(lines) == len(big.rows) == 42
    for line, row in zip(lines, big.rows, strict=True):
        assert line.split()[0] == f"{row.calls:g}"
        assert row.setting.method in line
        standing = row.standings["fid"]["calls"]
        assert ("● on" in line) == standing.on
        assert ("worse" in line) == (standing.decided is True) or row.standings["fid"]["seconds"].decided is True
    assert "real images (the floor)" in text
    words = " ".join(explanations(big, ("fid", "kid")))
    assert "for all pairs of settings together" in words
    assert "different machines" not in words


def test_scores_by_an_extractor_that_has_not_passed_its_check_are_marked(big: Sweep) -> None:
    def with_results(**results: str) -> Sweep:
        rows = [replace(r, scores={m: replace(s, check_result=results[m]) for m, s in r.scores.items()}) for r in big.rows[:2]]
        return replace(big, rows=rows)

    half, whole = with_results(fid="passed", kid="not checked"), with_results(fid="passed", kid="passed")
    for sweep, marked in ((half, ["KID ×1000 †"]), (whole, [])):
        text = write_page(sweep, ("fid", "kid"), "run", stripes(6, 0).pixels, 2).read_text()
        assert re.findall(r'<th scope="col" class="n">([^<]*†)</th>', text) == marked
        assert ("† The extractor has not passed its check (alphabar extractor check), KID: not checked" in text) == bool(marked)


def test_seconds_of_different_machines_have_a_caveat(big: Sweep) -> None:
    rows = [replace(row, where={**row.where, "cpu": f"cpu {k % 2}", "processes": 1 + k % 2}) for k, row in enumerate(big.rows)]
    words = " ".join(explanations(replace(big, rows=rows), ("fid",)))
    assert "different machines (cpu 0, cpu; cpu 1, cpu)" in words
    assert "Up to 2 settings were sampled at once" in words


def test_json_names_the_better_setting_of_each(big: Sweep) -> None:
    result = json.loads(json.dumps(big.to_json()))
    assert len(result["rows"]) == 42
    by_name = {row["name"]: row for row in result["rows"]}
    best = [row.setting.name for row in big.front("fid")]
    assert best == [f"ddim_{calls}_eta_0" for calls in (5, 8, 10, 15, 20, 50)]
    for name, row in by_name.items():
        found = row["front"]["fid"]["calls"]
        assert found["on"] == (name in best)
        if not found["on"]:
            assert found["behind"] in best
            assert by_name[found["behind"]]["nfe"] <= row["nfe"]
            assert found["difference"]["value"] > 0
    assert standing_words(big.rows[0], big.rows, "fid", "calls") == "front"


def test_ticks_are_round_and_few() -> None:
    assert ticks(5, 50) == [5, 7, 10, 15, 20, 30, 50]
    assert ticks(1, 1000) == [1, 3, 10, 30, 100, 300, 1000]
    for low, high in ((0.0011, 0.9), (3, 3), (0.02, 0.021), (1, 1e5)):
        assert 1 <= len(ticks(low, high)) <= 8


def test_a_symmetric_logarithmic_axis() -> None:
    """Linear near 0 and logarithmic beyond, where equal factors have equal lengths."""
    y = [-0.1, 0.1, 1.0, 10.0, 100.0]
    drawn = plot("p", "alt", [Line("", [1, 2, 3, 4, 5], y, markers=True)], log_y=True, linear_below=0.5)
    assert drawn is not None
    height = [-float(v) for v in re.findall(r'<use [^>]*x="[-\d.]+" y="([-\d.]+)"', str(drawn.svg))[-5:]]
    gaps = np.diff(height)
    assert (gaps > 0).all()
    assert gaps[2] == pytest.approx(gaps[3], rel=1e-3)
    assert gaps[0] < gaps[2]


def test_a_staircase_is_level_between_its_points() -> None:
    drawn = plot("p", "alt", [Line("front", [1.0, 2.0, 4.0], [3.0, 2.0, 1.0], colour=None, steps=True)])
    assert drawn is not None
    assert drawn.legend == [("var(--ink)", "solid", "front")]
    path = max(re.findall(r'<path d="((?:[ML] [-\d.]+ [-\d.]+ ?\n?)+)"', str(drawn.svg)), key=len)
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path)]
    assert len(points) == 5
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        assert x0 == x1 or y0 == y1
    assert points[0][1] == points[1][1]  # level first, down at the next point
