"""Line plots as inline SVG in the colours of the page, light or dark. Legends are HTML, so that they wrap on a phone."""

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from alphabar.report.words import as_drawn, short

COLOURS = 6  # --c1 .. --c6 in the page's style sheet
_INK, _MUTED, _LINE = "#010101", "#020202", "#030303"  # placeholders, replaced by the colours of the page
_DASHES = ("solid", "dashed", "dotted", "dashdot")  # classes of the page's style sheet
Interval = tuple[float, float]  # (low, high)


@dataclass(frozen=True)
class Line:
    """A line of a plot. colour: a number from 0, or None for the colour of text. interval: (low, high) of each point, None where
    there is none, drawn as a band or as bars. steps: a staircase, level from each point to the next."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    interval: Sequence[Interval | None] | None = None
    colour: int | None = 0
    markers: bool = False
    thin: bool = False
    bars: bool = False
    steps: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line, such as the floor. colour: as of a line. interval: (low, high) of a band around it."""

    label: str
    y: float
    colour: int | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Plot:
    """svg: to be inserted into a page. legend: (css colour, dash, label) of each line; dash is "solid", "dashed", ..."""

    svg: Markup
    legend: list[tuple[str, str, str]] = field(default_factory=list)


def plot(
    name: str, alt: str, lines: Sequence[Line], *, levels: Sequence[Level] = (), x_label: str = "images seen",
    log_y: bool = False, log_x: bool = False, x_ticks: Sequence[float] | None = None, x_names: Sequence[str] | None = None,
    from_zero: bool = False, linear_below: float | None = None, size: tuple[float, float] = (380, 235),
) -> Plot | None:  # fmt: skip
    """The lines in one plot; None where no line has a point. The y axis has no label: the heading or the legend names it.

    Args:
        name, alt: letters and digits that no other plot on the page has; a description for those who cannot see the plot.
        lines, levels: lines, of which those without points are left out; horizontal lines.
        x_label, log_x, x_ticks, x_names: the x axis; its ticks, None: chosen; names in place of the numbers 0, 1, ...
        log_y: logarithmic y axis, where all values are positive.
        from_zero: the y axis includes 0, unless it is logarithmic.
        linear_below: with log_y, where values reach 0 or less: the y axis is linear between -linear_below and linear_below.
        size: width and height in points; text is 11 points high, and the page enlarges the plot.
    """
    drawn = [_thinned(line) for line in lines if len(line.x)]
    if not drawn:
        return None
    values = [v for line in drawn for v in line.y] + [level.y for level in levels]
    ends = [i for line in drawn for i in line.interval or ()] + [level.interval for level in levels]
    values += [v for interval in ends if interval is not None for v in interval]
    near = linear_below if log_y and min(values) <= 0 else None
    log_y = log_y and min(values) > 0
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none", "svg.hashsalt": name, "text.usetex": False, "font.family": ["DejaVu Sans"],
        "font.size": 11, "axes.linewidth": 0.8, "path.simplify": True, "axes.unicode_minus": True,
        "axes.formatter.use_mathtext": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), facecolor="none")
        left, right, bottom, top = 50, 10, 40, 10  # points; fixed, because a layout engine would draw every plot twice
        width, height = size[0] - left - right, size[1] - bottom - top
        axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
        _dress(axes, x_label)
        for line in drawn:
            _draw(axes, line)
        for level in levels:
            if level.interval is not None:
                axes.axhspan(*level.interval, color=_colour(level.colour), alpha=0.12, linewidth=0)
            axes.axhline(level.y, color=_colour(level.colour), linestyle=(0, (4, 3)), linewidth=1.2)
        _scale(axes, log_x, log_y, x_ticks, from_zero)
        if x_names is not None:
            axes.set_xticks(range(len(x_names)), [as_drawn(n if len(n) <= 14 else n[:13] + "…") for n in x_names])
            axes.set_xlim(-0.3, len(x_names) - 0.7)
        if near is not None:
            _signed(axes, near, min(values), max(values))
        out = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # of a name in a script that the font lacks
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    legend = [(*swatch(line.colour), line.label) for line in drawn if line.label]
    legend += [(swatch(level.colour)[0], "dashed", level.label) for level in levels]
    return Plot(_inline(out.getvalue(), name, alt), legend)


def _dress(axes: Any, x_label: str) -> None:
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(colors=_MUTED, length=0, pad=5)
    axes.grid(axis="y", color=_LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label, color=_MUTED)
    axes.margins(x=0.03)


def _draw(axes: Any, line: Line) -> None:
    colour, dash = _colour(line.colour), swatch(line.colour)[1]
    if line.interval is not None and any(i is not None for i in line.interval):
        unknown = (math.nan, math.nan)  # leaves a gap
        low, high = zip(*(unknown if i is None else i for i in line.interval), strict=True)
        if line.bars:
            axes.vlines(line.x, low, high, color=colour, linewidth=1.3)
        else:
            axes.fill_between(line.x, low, high, color=colour, alpha=0.2, linewidth=0)
    marker = "o" if line.markers or len(line.x) == 1 else None
    axes.plot(
        line.x, line.y, color=colour, linestyle=dash, linewidth=1.1 if line.thin else 1.9, marker=marker, markersize=5,
        alpha=0.75 if line.thin else 1.0, drawstyle="steps-post" if line.steps else "default", solid_joinstyle="miter",
    )  # fmt: skip


def _scale(axes: Any, log_x: bool, log_y: bool, x_ticks: Sequence[float] | None, from_zero: bool) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if log_y:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        decades = math.log10(high / low)
        subs: tuple[float, ...] = (1.0, 2.0, 5.0) if decades > 1.2 else (1.0, 2.0, 3.0, 5.0)
        if decades <= 0.6:
            subs = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
        if decades < 0.25:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        else:
            axes.yaxis.set_major_locator(LogLocator(10, subs=subs if decades < 3 else (1.0,), numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
    elif from_zero:
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, low), high)
    if not log_y:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.4g}"))
    if log_x:
        axes.set_xscale("log")
    if x_ticks is not None:
        axes.xaxis.set_major_locator(FixedLocator(list(x_ticks)))
        axes.xaxis.set_minor_locator(NullLocator())
    elif not log_x:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: short(v)))


def _signed(axes: Any, near: float, low: float, high: float) -> None:
    """A y axis for values on both sides of 0."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_yscale("symlog", linthresh=near, linscale=0.6)
    first = math.ceil(math.log10(near) - 1e-9)
    marks = [near] + [m * 10.0**e for e in range(first - 1, first + 6) for m in (1, 2, 5)]
    axes.set_ylim(min(1.3 * low, 0.0), 1.25 * high)
    beyond = [v for v in marks if v >= near * (1 - 1e-9)]
    axes.yaxis.set_major_locator(FixedLocator([0.0, *beyond, *(-v for v in beyond)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v + 0.0:.4g}".replace("-", "−")))
    axes.yaxis.set_minor_locator(NullLocator())


def _thinned(line: Line, most: int = 500) -> Line:
    """A line of many points, reduced to means of neighbours, so that the page of a long run stays small."""
    n = len(line.x)
    if n <= most:
        return line
    cuts = [n * k // most for k in range(most + 1)]

    def means(values: Sequence[float]) -> list[float]:
        return [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]

    def mean_interval(intervals: Sequence[Interval | None]) -> Interval | None:
        known = [i for i in intervals if i is not None]
        return (sum(low for low, _ in known) / len(known), sum(high for _, high in known) / len(known)) if known else None

    interval = None if line.interval is None else [mean_interval(line.interval[a:b]) for a, b in pairwise(cuts)]
    return replace(line, x=means(line.x), y=means(line.y), interval=interval)


def _colour(index: int | None) -> str:
    return _INK if index is None else f"#0a000{index % COLOURS + 1}"


def swatch(colour: int | None) -> tuple[str, str]:
    """The (css colour, dash) of a line of this colour in a legend."""
    if colour is None:
        return "var(--ink)", _DASHES[0]
    return f"var(--c{colour % COLOURS + 1})", _DASHES[colour // COLOURS % len(_DASHES)]


def _inline(svg: str, name: str, alt: str) -> Markup:
    """matplotlib's file as a part of a page: without header, with unique ids, the page's colours, and an alternative text."""
    svg = svg[svg.index("<svg") :]
    for part in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        svg = re.sub(part, "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg.replace("xlink:href", "href"))
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    for stand_in, css in ((_INK, "ink"), (_MUTED, "muted"), (_LINE, "line")):
        svg = svg.replace(stand_in, f"var(--{css})")
    svg = re.sub(r"#0a000(\d)", r"var(--c\1)", svg)
    box = re.search(r'viewBox="([^"]*)"', svg)
    body = svg[svg.index(">") + 1 :]
    view = box[1] if box else "0 0 380 235"
    return Markup('<svg class="plot" viewBox="{}" role="img" aria-label="{}">').format(view, alt) + Markup(body)
