"""The front of quality against cost: on points placed by hand, on differences whose truth is known, and on the page."""

import io
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from alphabar.evaluation.compare import compare_measured
from alphabar.evaluation.estimate import Expansion
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.measured import Measured, load_measured, save_measured
from alphabar.evaluation.pareto import front, standings
from alphabar.evaluation.score import METRICS, Score
from alphabar.report.svg import Line, plot
from alphabar.report.sweep_page import ticks, write_page
from alphabar.report.sweep_words import explanations, standing_words
from alphabar.report.tables import sweep_table
from alphabar.results.sweeps import Row, Sweep, with_standings
from alphabar.sampling.samples import Samples
from alphabar.sampling.settings import LeftOut, Setting
from tests.fixtures.sets import Linear, stripes


def test_the_front_of_points_placed_by_hand() -> None:
    #        a  b   c   d   e   f
    costs = [5, 5, 10, 10, 20, 50]
    value = [9, 8, 8, 4, 5, 3]
    assert front(costs, value) == [False, True, False, True, False, True]
    assert front([1], [2]) == [True]
    assert front([], []) == []
    assert front([1, 1], [2, 2]) == [True, True]  # alike: together
    assert front([1, 2], [2, 2]) == [True, False]  # as good for less
    assert front([1, 1], [2, 1]) == [False, True]  # better for as much
    with pytest.raises(ValueError, match="2 costs for 1 values"):
        front([1, 2], [1])
    with pytest.raises(ValueError, match="NaN"):
        front([1.0, 2.0], [1.0, float("nan")])


def test_the_front_is_what_its_definition_says_of_random_points() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        costs, values = rng.integers(0, 6, 12).tolist(), rng.integers(0, 6, 12).tolist()
        on = front(costs, values)
        running = float("inf")  # another way to it: walking up the costs, what is better than all before
        best: dict[int, int] = {}
        for cost in sorted(set(costs)):
            lowest = min(v for c, v in zip(costs, values, strict=True) if c == cost)
            if lowest < running:
                best[cost], running = lowest, lowest
        assert on == [best.get(c) == v for c, v in zip(costs, values, strict=True)]


# ---- decided and not decided


def scored(metric: str, value: float, **more: Any) -> Score:
    given: dict[str, Any] = {
        "n": 400, "n_reference": 400, "floor": 0.5, "floor_n": 400, "floor_source": "made up", "extractor": "e",
        "preprocessing": {}, "reference": "r", "reference_name": "real", "interval": (value - 0.2, value + 0.2), "se": 0.1,
        "floor_interval": (0.4, 0.6), "seeds": {"seed": 0, "first_index": 0},
    }  # fmt: skip
    return Score(metric, value, **{**given, **more})


def made(value: float, own: Any, name: str, metrics: tuple[str, ...] = ("fid",)) -> Measured:
    """A measurement whose influences are `own` towards each image, and none towards the reference."""
    influence = torch.as_tensor(own, dtype=torch.float64)
    expansion = Expansion(value, len(influence), 400, influence - influence.mean(), torch.zeros(400, dtype=torch.float64))
    return Measured({m: scored(m, value) for m in metrics}, dict.fromkeys(metrics, expansion), name)


def test_a_difference_is_decided_at_the_level_of_all_pairs() -> None:
    """Influences that all settings share drop out; what is left has a standard error known in closed form."""
    rng = np.random.default_rng(1)
    shared, mine = 100 * rng.standard_normal(400), rng.standard_normal(400)
    mine -= mine.mean()
    se = float(mine.std(ddof=1)) / 20
    base = made(1.0, shared, "a")
    # two settings are one pair: 1.96 standard errors; four are six pairs: z of 0.05 / 6
    for others, z in ((0, 1.96), (2, 2.638)):
        spare = [made(9.0 + k, shared, f"spare {k}") for k in range(others)]
        for factor, yes in ((0.97, False), (1.03, True)):
            worse = made(1.0 + factor * z * se, shared + mine, "b")
            found = standings([base, worse, *spare], [1, 2, 3, 4][: 2 + others], "fid")
            assert found[0].on
            assert found[0].behind is None
            assert (found[1].on, found[1].behind, found[1].decided) == (False, 0, yes)
            assert found[1].difference is not None
            assert found[1].difference.se == pytest.approx(se, rel=1e-9)
    # of as many metrics as there are looks at them
    two = [made(1.0, shared, "a", ("fid", "kid")), made(1.0 + 2.1 * se, shared + mine, "b", ("fid", "kid"))]
    assert [s.decided for s in standings(two, [1, 2], "fid")] == [None, False]


def test_behind_is_the_best_of_those_that_cost_no_more() -> None:
    own = np.random.default_rng(2).standard_normal(400)
    values, costs = [5.0, 3.0, 4.0, 3.5, 2.0, 6.0], [5, 10, 10, 20, 50, 20]
    found = standings([made(v, own, str(v)) for v in values], costs, "fid")
    assert [s.on for s in found] == [True, True, False, False, True, False]
    assert [s.behind for s in found] == [None, None, 1, 1, None, 1]
    assert [s.difference.value for s in found if s.difference] == [1.0, 0.5, 3.0]
    higher = standings([made(v, own, str(v), ("coverage",)) for v in values], costs, "coverage")
    assert [s.on for s in higher] == [True, False, False, False, False, True]
    assert [s.behind for s in higher] == [None, 0, 0, 5, 5, None]


def test_no_interval_and_equal_values_are_not_decided() -> None:
    own = np.random.default_rng(3).standard_normal(400)
    blind = made(7.0, own, "b")
    blind = replace(blind, expansions={"fid": replace(blind.expansions["fid"], trouble="no interval: too few")})
    assert standings([made(1.0, own, "a"), blind], [1, 2], "fid")[1].decided is False
    assert standings([made(1.0, own, "a"), made(1.0, own + 1, "b")], [1, 2], "fid")[1].decided is False


def test_what_was_measured_is_kept_to_the_bit(tmp_path: Path) -> None:
    """A comparison of what was read back says what a comparison of the living says, in every metric."""
    ruler = ImageEval(Linear(), stripes(260, 0), cache=False)
    record = {"seed": 0, "first_index": 0, "nfe": 5}
    living = [ruler.measure(stripes(120, k).pixels, record) for k in (1, 2)]
    for k, one in enumerate(living):
        save_measured(tmp_path / f"{k}.npz", one)
    read = [load_measured(tmp_path / f"{k}.npz") for k in (0, 1)]
    for a, b in zip(living, read, strict=True):
        assert a.images == b.images
        assert a.scores == b.scores
    assert set(read[0].scores) == set(METRICS)
    assert [c.to_json() for c in compare_measured(*living)] == [c.to_json() for c in compare_measured(*read)]
    np.savez(tmp_path / "other.npz", images=np.zeros(1))
    with pytest.raises(ValueError, match="holds images, but no scores"):
        load_measured(tmp_path / "other.npz")


# ---- the table and the page


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


def test_the_page_shows_every_setting_and_fetches_nothing(big: Sweep) -> None:
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


def test_rows_of_one_method_stand_together_in_the_sheets(big: Sweep) -> None:
    text = write_page(big, ("fid",), "run", stripes(6, 0).pixels, 8).read_text()
    alts = re.findall(r'alt="8 images sampled by ([^"]*) calls', text)
    assert alts[:6] == [f"ddim, eta 0, {calls}" for calls in (50, 20, 15, 10, 8, 5)]
    assert len(alts) == len(set(alts)) == 42


def test_large_images_are_made_small_and_the_page_says_so(big: Sweep, tmp_path: Path) -> None:
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


def test_words_on_clocks_that_do_not_compare(big: Sweep) -> None:
    rows = [replace(row, where={**row.where, "cpu": f"cpu {k % 2}", "processes": 1 + k % 2}) for k, row in enumerate(big.rows)]
    words = " ".join(explanations(replace(big, rows=rows), ("fid",)))
    assert "different machines (cpu 0, cpu; cpu 1, cpu)" in words
    assert "Up to 2 settings were sampled at once" in words


def test_json_names_what_each_setting_lies_behind(big: Sweep) -> None:
    told = json.loads(json.dumps(big.to_json()))
    assert len(told["rows"]) == 42
    by_name = {row["name"]: row for row in told["rows"]}
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


def test_an_axis_for_values_on_both_sides_of_0() -> None:
    """Linear within, logarithmic beyond: equal factors are equal lengths there, and the sign is kept."""
    y = [-0.1, 0.1, 1.0, 10.0, 100.0]
    drawn = plot("p", "alt", [Line("", [1, 2, 3, 4, 5], y, markers=True)], log_y=True, linear_below=0.5)
    assert drawn is not None
    height = [-float(v) for v in re.findall(r'<use [^>]*x="[-\d.]+" y="([-\d.]+)"', str(drawn.svg))[-5:]]
    gaps = np.diff(height)
    assert (gaps > 0).all()
    assert gaps[2] == pytest.approx(gaps[3], rel=1e-3)
    assert gaps[0] < gaps[2]


def test_a_line_of_steps_is_level_between_its_points() -> None:
    drawn = plot("p", "alt", [Line("front", [1.0, 2.0, 4.0], [3.0, 2.0, 1.0], colour=None, steps=True)])
    assert drawn is not None
    assert drawn.legend == [("var(--ink)", "solid", "front")]
    path = max(re.findall(r'<path d="((?:[ML] [-\d.]+ [-\d.]+ ?\n?)+)"', str(drawn.svg)), key=len)
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path)]
    assert len(points) == 5
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        assert x0 == x1 or y0 == y1
    assert points[0][1] == points[1][1]  # level first, down at the next point
