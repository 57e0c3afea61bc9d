"""The page and the terminal table of `alphabar demo`."""

import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np

from alphabar.core.files import write_json
from alphabar.core.messages import console, say
from alphabar.core.types import Pixels
from alphabar.data.image_set import ImageSet
from alphabar.evaluation.score import TITLES, Score
from alphabar.report import png, svg
from alphabar.report.page import write_page
from alphabar.report.words import FLOOR, brackets_explained, estimate_words, machine_words, sig, without_interval
from alphabar.results.demo import Demo, DemoResult
from alphabar.sampling.samples import Samples

if TYPE_CHECKING:
    from rich.table import Table

NEXT = (
    ("alphabar sample bundled --n 64 --steps 25 --eta 1 --out OUT/more.npz", "sample more images, with other options"),
    (
        "alphabar train fashion_mnist --recipe garments --out runs/garments",
        "train the model, with previews and scores",
    ),
    ("alphabar data photos/", "look at a set of your images, to train on next"),
)


def rows(demo: Demo) -> list[dict[str, Any]]:
    """The table: a row a setting, and a last one for real images, the floor."""
    out: list[dict[str, Any]] = []
    for result in demo.results:
        record = result.samples.record
        out.append({
            "title": result.setting.title, "eta": record["eta"], "nfe": record["nfe"], "scored": result.setting.scored,
            "seconds": record["seconds_per_image"], "n": record["n"], "real": False, **_values(result, "value", "interval"),
        })  # fmt: skip
    if first := next((r for r in demo.results if r.scores), None):
        out.append({
            "title": "real images: the floor", "eta": None, "nfe": None, "scored": False, "seconds": None, "real": True,
            "n": getattr(first.score("fid"), "floor_n", None), **_values(first, "floor", "floor_interval"),
        })  # fmt: skip
    return out


def _values(result: DemoResult, value: str, interval: str) -> dict[str, Any]:
    """FID and KID with their intervals, by the names of the attributes of a score."""
    return {
        name + ending: getattr(result.score(name), attribute, None)
        for name in ("fid", "kid") for ending, attribute in (("", value), ("_interval", interval))
    }  # fmt: skip


def intervals_in_words(demo: Demo) -> list[str]:
    """What the intervals are for, and why some scores have none: a sentence each."""
    scores = [score for result in demo.results for score in result.scores]
    floors = [s for s in scores if s.floor is not None and s.floor_interval is None]
    few = ((f"{TITLES[s.metric]} of real images", f"one draw of {s.floor_n:,} real images is not enough") for s in floors)
    return brackets_explained(scores) + without_interval(few)


def table(demo: Demo) -> "Table":
    """The table for a terminal of 80 columns."""
    from rich import box
    from rich.table import Table

    title = f"{demo.about['n']:,} images a score. Lower is better; the floor is the score of as many real images."
    out = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for name in ("sampler", "eta", "calls", "s/image", "FID", "KID ×1000"):
        out.add_column(name, justify="left" if name == "sampler" else "right", no_wrap=name != "sampler")
    for row in rows(demo):
        eta = "–" if row["eta"] is None else f"{row['eta']:g}"
        nfe = "–" if row["nfe"] is None else f"{row['nfe']:,.4g}" if row["nfe"] < 1000 else f"{row['nfe']:,.0f}"
        few = "few" if not row["scored"] and not row["real"] else None
        out.add_row(
            row["title"], eta, nfe, sig(row["seconds"]),
            few or estimate_words("fid", row["fid"], row["fid_interval"]),
            few or estimate_words("kid", row["kid"], row["kid_interval"]),
            style="dim" if row["real"] else None,
        )  # fmt: skip
    return out


def print_demo(demo: Demo, page: Path) -> None:
    """Prints the table, what its intervals are, where the page is, and what to try next."""
    out = console(None if sys.stdout.isatty() else 100)
    out.print(table(demo))
    if any(not r.setting.scored for r in demo.results):
        out.print(f"few: {demo.few} images are too few for a score.")
    for sentence in intervals_in_words(demo):
        out.print(sentence)
    say(f"\nThe page, with all images, is {page} ({demo.seconds / 60:.1f} minutes).\n\nCommands to go on with:")
    for line, why in NEXT:
        say(f"  {line.replace('OUT', quote(str(page.parent)))}\n      {why}")
    say(f"next: look at {page}")


def write_demo(demo: Demo, out: Path) -> Path:
    """Writes out/results.json and out/index.html, and returns the path of the page."""
    results = demo.to_json()
    write_json(out / "results.json", results)
    table_rows = rows(demo)
    scored = [row for row in table_rows if row["scored"] and row["fid"] is not None]
    real = next((row for row in table_rows if row["real"]), None)
    lines = _lines(demo)
    sheets = [
        {
            "title": r.setting.title, "eta": r.samples.record["eta"], "nfe": r.samples.record["nfe"],
            "seconds": r.samples.record["seconds_per_image"], "uri": png.png_uri(png.strip(r.samples.images[: demo.few])),
        }
        for r in demo.results
    ]  # fmt: skip
    return write_page(
        out / "index.html", "demo.html.j2", near=[out],
        title="The same garments in fewer calls", demo=demo, rows=table_rows, about=demo.about, machine=results["machine"],
        machine_words=machine_words(results["machine"]), sheets=sheets,
        real_uri=png.png_uri(png.strip(_some_real(demo.real, demo.few))), columns=demo.few,
        plot=_plot(lines, real), barred=any(ends is not None for line in lines for ends in line.interval or ()),
        best=min(scored, key=lambda row: row["fid"], default=None), real=real, sentences=intervals_in_words(demo),
        slow=next((row for row in table_rows if not row["scored"] and not row["real"]), None),
        path=_trajectory(demo.trajectory), commands=[(c.replace("OUT", quote(str(out))), why) for c, why in NEXT],
        score=next((r.scores[0] for r in demo.results if r.scores), None),
    )  # fmt: skip


def _lines(demo: Demo) -> list[svg.Line]:
    """FID against network calls, a line for each sampler and eta."""
    lines = []
    for k, name in enumerate(dict.fromkeys(r.setting.line for r in demo.results if r.scores)):
        found: list[Score] = [s for r in demo.results if r.setting.line == name and (s := r.score("fid")) is not None]
        found.sort(key=lambda s: float(s.nfe or 0))
        x, y, ends = [float(s.nfe or 0) for s in found], [s.value for s in found], [s.interval for s in found]
        lines.append(svg.Line(name, x, y, ends, colour=k, markers=True, bars=True))
    return lines


def _plot(lines: list[svg.Line], real: dict[str, Any] | None) -> svg.Plot | None:
    levels = []
    if real is not None and real["fid"] is not None:
        words = f"{FLOOR}, {estimate_words('fid', real['fid'], real['fid_interval'])}"
        levels = [svg.Level(words, real["fid"], interval=real["fid_interval"])]
    values = "; ".join(
        f"{line.label}: " + ", ".join(f"{sig(y)} at {x:g} calls" for x, y in zip(line.x, line.y, strict=True)) for line in lines
    )
    return svg.plot(
        "calls", f"FID against calls an image. {values}.", lines, levels=levels, x_label="network calls an image",
        x_ticks=sorted({x for line in lines for x in line.x}), log_x=True, from_zero=True, size=(400, 250),
    )  # fmt: skip


def _some_real(real: ImageSet, n: int) -> Pixels:
    """A few real images, one of each class in turn where the classes are known."""
    if real.labels is None:
        return np.asarray(real.pixels[:n])
    order = np.argsort(real.labels, kind="stable")
    starts = np.searchsorted(real.labels[order], np.unique(real.labels))
    picked = [int(order[s + k]) for k in range(n) for s in starts if s + k < len(order)][:n]
    return np.asarray(real.pixels[picked])


def _trajectory(samples: Samples | None) -> dict[str, Any] | None:
    """x0_hat step by step, a row an image, and the images at the end."""
    if samples is None or samples.x0 is None:
        return None
    columns = [*samples.x0, samples.images]
    grid = np.stack(columns, axis=1).reshape(-1, *samples.images.shape[1:])
    return {
        "uri": png.png_uri(png.strip(grid, columns=len(columns))), "columns": len(columns), "rows": len(samples.images),
        "sigmas": samples.record["grid"][:-1],
    }  # fmt: skip
