"""Plots: the points lie where they should, and the SVG fits into a page."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from alphabar.report.svg import Level, Line, plot
from alphabar.report.words import short


def _points(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([-\d.]+)" y="([-\d.]+)"', svg)]


def test_points_are_an_affine_image_of_the_data() -> None:
    x, y = [10.0, 25.0, 50.0], [9.0, 3.0, 4.0]
    made = plot("p", "Three points.", [Line("a", x, y, markers=True)], from_zero=True)
    assert made is not None
    # the tick marks come first; their length is 0, and the last three are the line's
    found = np.array(_points(str(made.svg)))[-3:]
    for column, values, sign in ((0, x, 1), (1, y, -1)):
        slope, offset = np.polyfit(values, found[:, column], 1)
        assert np.abs(slope * np.array(values) + offset - found[:, column]).max() < 1e-3
        assert slope * sign > 0


def test_levels_and_logarithms() -> None:
    x, y = [10.0, 100.0], [1.0, 100.0]
    made = plot("p", "alt", [Line("a", x, y, markers=True)], levels=[Level("floor", 10.0)], log_y=True, log_x=True)
    assert made is not None
    (_, high), (_, low) = _points(str(made.svg))[-2:]
    flat = r'M [-\d.]+ ([-\d.]+) \nL [-\d.]+ \1 \n" clip-path[^>]*stroke-dasharray'
    floor = [float(v) for v in re.findall(flat, str(made.svg))]
    assert floor == [pytest.approx((low + high) / 2, abs=1e-3)]  # 10 lies half-way between 1 and 100
    assert made.legend == [("var(--c1)", "solid", "a"), ("var(--ink)", "dashed", "floor")]


def test_the_svg_is_a_well_formed_part_of_a_page() -> None:
    line = Line("loss", [0, 1, 2], [3, 2, 1], [(2.9, 3.1), (1.8, 2.2), (0.9, 1.1)], colour=1)
    made = plot("p7", 'falls, "fast" & <far>', [line], levels=[Level("l", 1.0, 2)])
    assert made is not None
    svg = str(made.svg)
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == 'falls, "fast" & <far>'
    assert "viewBox" in root.attrib
    ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    assert all(i.startswith("p7-") for i in ids)
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", svg))
    assert {a or b for a, b in used} <= set(ids)
    assert not re.findall(r"#0[0a]", svg), "a stand-in for a colour was left"
    for colour in ("--ink", "--c2", "--c3", "--muted", "--line"):
        assert f"var({colour})" in svg or colour == "--ink"
    assert "fill-opacity: 0.2" in svg  # the band of the intervals


def test_bars_run_from_the_low_end_to_the_high_one() -> None:
    """Unlike distances below and above, a point without an interval, and a band round the floor."""
    y = [9.0, 3.0, 4.0]
    ends = [(8.5, 11.0), None, (1.0, 4.5)]
    line = Line("a", [10.0, 25.0, 50.0], y, ends, markers=True, bars=True)
    made = plot("p", "alt", [line], levels=[Level("floor", 2.0, interval=(1.5, 2.25))], from_zero=True)
    assert made is not None
    svg = str(made.svg)
    points = np.array(_points(svg))[-3:]
    slope, offset = np.polyfit(points[:, 1], y, 1)  # from the page's units to those of the data
    upright = r'd="M ([-\d.]+) ([-\d.]+) \nL \1 ([-\d.]+) \n" [^>]*stroke: var\(--c1\)'
    bars = [[float(v) for v in found] for found in re.findall(upright, svg)]
    assert [x for x, *_ in bars] == [pytest.approx(points[k, 0], abs=1e-3) for k in (0, 2)]
    for (_, *drawn), wanted in zip(bars, (ends[0], ends[2]), strict=True):
        assert [slope * v + offset for v in drawn] == pytest.approx(wanted, abs=1e-3)
    (band,) = re.findall(r'd="M ([^"]*)" [^>]*fill: var\(--ink\)[^>]*opacity: 0.12', svg)
    heights = {slope * float(v) + offset for v in re.findall(r"[-\d.]+ ([-\d.]+)", band)}
    assert (min(heights), max(heights)) == pytest.approx((1.5, 2.25), abs=1e-3)


def test_an_interval_that_reaches_zero_is_shown_whole() -> None:
    """A logarithmic axis would cut it off."""
    line = Line("a", [1.0, 2.0], [100.0, 1.0], [(90.0, 110.0), (-1.0, 3.0)], markers=True, bars=True)
    made = plot("p", "alt", [line], log_y=True)
    assert made is not None
    points = np.array(_points(str(made.svg)))[-2:]
    lowest = max(
        float(v) for v in re.findall(r"[ML] [-\d.]+ ([-\d.]+)", str(made.svg).split("LineCollection")[1].split("</g>")[0])
    )
    assert (lowest - points[1, 1]) / (points[1, 1] - points[0, 1]) == pytest.approx(2 / 99, rel=1e-3)  # 1 to -1, to scale


def test_the_band_is_left_out_where_it_is_unknown() -> None:
    n = 4_000
    known = [None if k < n // 2 else (k - 1.0, k + 1.0) for k in range(n)]
    made = plot("p", "alt", [Line("a", list(range(n)), [float(k) for k in range(n)], known)])
    assert made is not None
    band = str(made.svg).split("PolyCollection")[-1].split("</g>")[0]
    line = re.findall(r'd="M ([-\d.]+)[^"]*L ([-\d.]+) [-\d.]+ \n" clip-path', str(made.svg))[-1]
    left, right = (float(v) for v in line)
    found = [float(v) for v in re.findall(r"[ML] ([-\d.]+) ", band)]
    assert min(found) == pytest.approx((left + right) / 2, abs=0.6)
    assert max(found) == pytest.approx(right, abs=0.6)


def test_nothing_to_draw() -> None:
    assert plot("p", "alt", [Line("a", [], [])]) is None
    assert plot("p", "alt", []) is None


def test_one_point_shows_and_odd_labels_do_no_harm() -> None:
    made = plot("p", "alt", [Line("_$x^$ <b>", [5.0], [0.0], colour=8)], log_y=True)
    assert made is not None
    assert "$" not in str(made.svg)  # labels are the page's business
    assert made.legend == [("var(--c3)", "dashed", "_$x^$ <b>")]


def test_long_lines_are_thinned_to_means() -> None:
    n = 20_000
    made = plot("p", "alt", [Line("a", list(range(n)), [float(k % 2) for k in range(n)])])
    assert made is not None
    assert len(str(made.svg)) < 40_000


def test_the_same_plot_is_the_same_text() -> None:
    lines = [Line("a", [0, 1], [2, 3])]
    assert plot("p", "alt", lines) == plot("p", "alt", lines)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (10, "10"), (1500, "1.5k"), (2_000_000, "2M"), (0.25, "0.25"), (-3e9, "-3G")]
)
def test_short(value: float, text: str) -> None:
    assert short(value) == text
