"""`alphabar demo`: the same garments by DDPM, by skipped calls and by DDIM, scored, from what the package carries alone."""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alphabar.core.files import write_atomically
from alphabar.core.machine import machine
from alphabar.core.progress import track
from alphabar.core.types import Features, Images, Levels, Pixels
from alphabar.data.cache import fingerprint_of
from alphabar.data.image_set import ImageSet
from alphabar.data.images import check_images
from alphabar.data.split import image_hashes
from alphabar.denoiser.plan import parse_plan, timesteps
from alphabar.evaluation.floor import floor_sets
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import INTERVALS, TITLES, Score
from alphabar.features.extractor import FeatureExtractor
from alphabar.features.load import load_extractor
from alphabar.sampling.sample import Model, Samples, fingerprint, sample
from alphabar.schedule.grid import make_grid
from alphabar.training.checkpoint import load_model

if TYPE_CHECKING:
    from rich.table import Table

REAL_IMAGES = Path(__file__).parents[1] / "assets" / "fashion_mnist_test.npz"
MOST = 2_000  # images a setting
PATIENCE = 6 * 60  # seconds: a machine that needs more for the fewest images is told so
_ROUND = 40  # images a setting are a multiple of it
_MEASURE = 0.4  # seconds spent on each measurement of speed


@dataclass(frozen=True)
class Setting:
    """One way to draw. steps: None takes all steps of the model's schedule (1,000 where its time is continuous).

    plan: of calls, as "every(3, last=50)". scored: drawn in numbers and scored; otherwise a few images to look at.
    """

    sampler: str
    steps: int | None = None
    eta: float = 0.0
    plan: str | None = None
    scored: bool = False

    @property
    def key(self) -> str:
        """A name for files."""
        parts = [self.sampler, str(self.steps or "all")]
        parts += [f"eta_{self.eta:g}"] if self.sampler == "ddim" else []
        parts += ["".join(c if c.isalnum() else "_" for c in self.plan).strip("_")] if self.plan else []
        return "_".join(parts)

    @property
    def title(self) -> str:
        """A name for people, without the number of calls, which is measured."""
        name = "fitted to the model" if self.sampler == "tuned" else self.sampler.upper()
        return f"{name}, {self.plan}" if self.plan else name

    @property
    def line(self) -> str:
        """The line of the plot that it is a point of."""
        if self.sampler == "tuned":
            return self.title
        name = f"{self.title}, eta {self.eta:g}"
        return name + {0.0: ": no noise added", 1.0: ": DDPM's noise"}.get(self.eta, "")


SETTINGS = (
    Setting("ddpm"),
    Setting("ddpm", plan="every(3, last=50)"),
    Setting("ddpm", plan="progressive"),
    *(Setting("ddim", steps, eta, scored=True) for eta in (0.0, 1.0) for steps in (10, 25, 50)),
    *(Setting("tuned", steps, scored=True) for steps in (5, 10)),
)


@dataclass
class Result:
    """What one setting gave. scores: FID and KID, none where there are too few images or the work was stopped."""

    setting: Setting
    samples: Samples
    scores: tuple[Score, ...] = ()

    def score(self, metric: str) -> Score | None:
        return next((s for s in self.scores if s.metric == metric), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "title": self.setting.title, "setting": asdict(self.setting), "record": self.samples.record,
            "scores": [s.to_json() for s in self.scores],
        }  # fmt: skip


@dataclass
class Demo:
    """All that was made, and on what."""

    minutes: float
    seed: int
    few: int
    real: ImageSet
    about: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    trajectory: Samples | None = None
    seconds: float = 0.0
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            **self.about, "finished": self.finished, "seconds": round(self.seconds, 1), "minutes_asked": self.minutes,
            "seed": self.seed, "machine": machine(), "settings": [r.to_json() for r in self.results],
            "trajectory": None if self.trajectory is None else self.trajectory.record,
        }  # fmt: skip


def run(
    out: str | Path = "demo",
    minutes: float = 2.5,
    *,
    model: str | Path | Model = "bundled",
    extractor: str | Path | FeatureExtractor = "bundled",
    images: ImageSet | Any | None = None,
    settings: Sequence[Setting] = SETTINGS,
    n: int | None = None,
    few: int = 8,
    seed: int = 0,
    device: str | None = None,
) -> Path:
    """Draws, scores, prints a table and writes out/index.html, whose path it returns, and out/results.json.

    minutes: of drawing and scoring, from which the number of images follows. images: real ones; None takes the bundled
    ones. n: images a scored setting, instead of what the minutes allow. few: images of the other settings, and in a row
    of the sheet. device: None takes the best there is.

    Ctrl-C writes the page from what is there and raises KeyboardInterrupt; the same command then goes on.
    Raises FileNotFoundError where the bundled files are missing, ValueError for an n that FID cannot be taken of.
    """
    begun = time.monotonic()
    out = Path(out)
    net: Any = load_model(model) if isinstance(model, str | Path) else model
    eye: FeatureExtractor = load_extractor(extractor) if isinstance(extractor, str | Path) else extractor
    real = bundled_images() if images is None else _image_set(images)
    least = math.ceil(max(640, eye.dim * 5 / 4) / _ROUND) * _ROUND
    if n is not None and n <= eye.dim:
        raise ValueError(f"n = {n}: FID takes more images than the extractor has features ({eye.dim}); give {least} or more")
    if device is None:
        from alphabar.core.machine import best_device

        device = best_device()

    wanted = {
        "model": fingerprint(net), "extractor": eye.fingerprint, "real": real.fingerprint, "seed": seed, "few": few,
        "minutes": minutes, "asked": n, "settings": [s.key for s in settings],
    }  # fmt: skip
    folder = out / "samples"
    pace = _unfinished(out, wanted)
    if pace is None:
        for setting in settings:
            _remove(folder, setting.key)
        _remove(folder, "trajectory")
        _say("measuring the speed of a call on this machine ...")
        pace = _pace(net, eye, real.pixels, settings, few, device)
        pace["n"] = n or _number(pace, minutes, least)
        write_atomically(out / "unfinished.json", json.dumps({"wanted": wanted, "pace": pace}))
    else:
        _say(f"going on with the demo that was stopped in {out}")
    count = int(pace["n"])
    _expectation(pace, count, settings)

    about = {"n": count, "speed": pace, "extractor": eye.fingerprint, "model": fingerprint(net), "reference": real.name}
    made = Demo(minutes, seed, few, real, about)
    try:
        _draw(made, net, settings, count, pace, folder, device)
        _score(made, eye)
        made.finished = True
        (out / "unfinished.json").unlink(missing_ok=True)
    except KeyboardInterrupt:
        _say("stopped: the page holds what is there, and the same command goes on from it")
        raise
    finally:
        made.seconds = time.monotonic() - begun
        page = _write(made, out)
    _print(made, page)
    return page


def bundled_images() -> ImageSet:
    """The real test images that the package carries: all 10,000 of Fashion-MNIST's test split."""
    if not REAL_IMAGES.exists():
        raise FileNotFoundError(f"the bundled test images are not at {REAL_IMAGES}: install alphabar anew, or pass images=...")
    with np.load(REAL_IMAGES, allow_pickle=False) as file:
        return _image_set(file["images"], file["labels"], tuple(str(c) for c in file["classes"]), "bundled Fashion-MNIST")


def _image_set(images: Any, labels: Any = None, classes: tuple[str, ...] | None = None, name: str = "images given") -> ImageSet:
    if isinstance(images, ImageSet):
        return images
    pixels = check_images(images)
    hashes = image_hashes(pixels)
    return ImageSet(name, "test", pixels, labels, classes, fingerprint_of(pixels.shape[1:], hashes), hashes, name)


# ---- how much the minutes allow


def _pace(
    model: Any, extractor: FeatureExtractor, pixels: Pixels, settings: Sequence[Setting], few: int, device: str
) -> dict[str, Any]:
    """Seconds an image-call in the fastest layout and batch, in the small batch of the few, and of an image's features."""
    if isinstance(model, torch.nn.Module):
        model.to(device).eval()
    layouts = (False, True) if isinstance(model, torch.nn.Module) else (False,)
    best: tuple[float, bool, int] | None = None
    for channels_last in layouts:
        for batch in (32, 64, 128):
            seconds = _call_seconds(model, batch, channels_last, device) / batch
            if best is None or seconds < best[0]:
                best = (seconds, channels_last, batch)
    if best is None:
        raise RuntimeError("no speed was measured")
    some = np.ascontiguousarray(pixels[: min(len(pixels), 256)])
    extractor.features(some[:8])
    begun = time.perf_counter()
    extractor.features(some)
    seconds_a_feature = (time.perf_counter() - begun) / len(some)
    calls = {s.key: _calls(model, s) for s in settings}
    return {
        "seconds_a_call": best[0], "channels_last": best[1], "batch": best[2],
        "seconds_a_call_few": _call_seconds(model, few, best[1], device) / few,
        "seconds_a_feature": seconds_a_feature,
        "calls": calls,
        "few": few,
        "calls_few": sum(calls[s.key] for s in settings if not s.scored) + 10,  # and those of the trajectory
        "calls_scored": sum(calls[s.key] for s in settings if s.scored),
        "scored": sum(s.scored for s in settings),
        "real": len(pixels) - len(pixels) // 2,
    }  # fmt: skip


@torch.inference_mode()
def _call_seconds(model: Any, batch: int, channels_last: bool, device: str) -> float:
    """Seconds a call of `model` on `batch` images: the median of some, after a first one that does not count."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if isinstance(model, torch.nn.Module):
        model.to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.zeros(batch, *model.image_shape, device=device).contiguous(memory_format=layout)
    sigma = torch.ones(batch, device=device)
    taken: list[float] = []
    while len(taken) < 4 or (sum(taken) < _MEASURE and len(taken) < 30):
        begun = time.perf_counter()
        model(x, sigma).flatten()[0].item()  # waits for the device
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken[1:]))


def _steps(model: Model, setting: Setting) -> int:
    return setting.steps or model.schedule.steps or 1000


def _calls(model: Model, setting: Setting) -> int:
    """Network calls an image that a setting should cost; what it did cost is counted as it is paid."""
    steps = _steps(model, setting)
    if setting.plan is None:
        return steps
    return int(parse_plan(setting.plan)(steps, timesteps(model.schedule, make_grid(model.schedule, steps))).sum())


def _number(pace: Mapping[str, Any], minutes: float, least: int) -> int:
    """Images a scored setting, as many as fit into the minutes, between `least` and 2,000."""
    if not pace["scored"]:
        return least
    fixed = pace["few"] * pace["calls_few"] * pace["seconds_a_call_few"] + pace["real"] * pace["seconds_a_feature"]
    each = pace["calls_scored"] * pace["seconds_a_call"] * 1.05 + (pace["scored"] + 1) * pace["seconds_a_feature"]
    fits = int((minutes * 60 - fixed) / each) // _ROUND * _ROUND
    return max(least, min(fits, MOST))


def _expectation(pace: Mapping[str, Any], n: int, settings: Sequence[Setting]) -> None:
    drawn = pace["few"] * pace["calls_few"] * pace["seconds_a_call_few"] + n * pace["calls_scored"] * pace["seconds_a_call"]
    seconds = drawn + (pace["real"] + n * (pace["scored"] + floor_sets(n, pace["real"]))) * pace["seconds_a_feature"]
    slow = " (this machine is slow, but fewer images would make a score of little worth)" if seconds > PATIENCE else ""
    _say(
        f"one call costs {pace['seconds_a_call'] * 1e3:.3g} ms an image here: {n:,} images by each of {pace['scored']} settings, "
        f"{pace['few']} by {len(settings) - pace['scored']} slow ones, in about {max(seconds, 1) / 60:.1f} minutes{slow}"
    )


def _unfinished(out: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pace of a demo that was stopped in `out`, where it is the one that is wanted now."""
    try:
        there = json.loads((out / "unfinished.json").read_text(encoding="utf-8"))
        if there["wanted"] == json.loads(json.dumps(wanted)):
            pace: dict[str, Any] = there["pace"]
            return pace
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _remove(folder: Path, key: str) -> None:
    (folder / f"{key}.npz").unlink(missing_ok=True)
    shutil.rmtree(folder / f"{key}.part", ignore_errors=True)


# ---- the work


class _Told:
    """A model that moves a bar on with every image that it is called for."""

    def __init__(self, model: Any, advance: Callable[..., None]) -> None:
        self.model, self.advance = model, advance
        self.schedule, self.image_shape = model.schedule, model.image_shape
        self.crop, self.data_range = int(getattr(model, "crop", 0)), float(getattr(model, "data_range", 1.0))
        self.fingerprint = fingerprint(model)
        self.home = getattr(model, "home", None)  # where fitted samplers are
        self.note = ""
        self.images = 0

    def __call__(self, x: Images, sigma: Levels) -> Images:
        out: Images = self.model(x, sigma)
        self.images += len(x)
        self.advance(len(x), self.note)
        return out


def _draw(
    demo: Demo, model: Any, settings: Sequence[Setting], n: int, pace: Mapping[str, Any], folder: Path, device: str
) -> None:
    """All samples, each setting's into a file of its own, which is not drawn again where it is there."""
    layout = bool(pace["channels_last"])
    with _ready(model, device, layout):
        costs = [(n if s.scored else demo.few) * pace["calls"][s.key] for s in settings]
        some = min(6, demo.few)
        steps = min(10, model.schedule.steps or 10)
        total = sum(costs) + some * steps
        with track(total, "drawing", unit="calls") as advance:
            told = _Told(model, advance)
            for setting, cost in zip(settings, costs, strict=True):
                before = told.images
                told.note = setting.title + (f", {setting.steps} calls" if setting.scored else "")
                samples = _kept(folder / f"{setting.key}.npz") or sample(
                    told, n if setting.scored else demo.few, sampler=setting.sampler, steps=_steps(model, setting),
                    eta=None if setting.sampler == "tuned" else setting.eta, plan=setting.plan, seed=demo.seed,
                    batch=pace["batch"] if setting.scored else demo.few,
                    out=folder / f"{setting.key}.npz", progress=False, device=device, channels_last=layout,
                )  # fmt: skip
                demo.results.append(Result(setting, samples))
                advance(cost - (told.images - before), told.note)  # what an earlier run had drawn
            told.note = "along the way"
            demo.trajectory = sample(
                told, some, steps=steps, seed=demo.seed, keep_x0=True, progress=False, device=device, channels_last=layout
            )


@contextmanager
def _ready(model: Any, device: str, channels_last: bool) -> Iterator[None]:
    if isinstance(model, torch.nn.Module):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model.to(device, memory_format=layout).eval()  # type: ignore[call-overload]
    yield


def _kept(path: Path) -> Samples | None:
    return Samples.load(path) if path.exists() else None


class _ToldExtractor:
    """An extractor that moves a bar on with every image."""

    def __init__(self, extractor: FeatureExtractor, advance: Callable[..., None]) -> None:
        self.extractor, self.advance = extractor, advance
        self.name, self.dim, self.fingerprint = extractor.name, extractor.dim, extractor.fingerprint
        self.preprocessing = extractor.preprocessing

    def features(self, pixels: Pixels) -> Features:
        out = self.extractor.features(pixels)
        self.advance(len(pixels))
        return out


def _score(demo: Demo, extractor: FeatureExtractor) -> None:
    """FID and KID of the scored settings. One half of the real images, by content, is the reference, the other the floor."""
    scored = [r for r in demo.results if r.setting.scored]
    if not scored:
        return
    images = sum(len(r.samples.images) for r in scored)
    half = len(demo.real) - len(demo.real) // 2
    n, pool = len(scored[0].samples.images), len(demo.real) // 2
    with track(images + half + min(n, pool) * floor_sets(n, pool), "scoring", unit="images") as advance:
        judge = ImageEval(_ToldExtractor(extractor, advance), demo.real, cache=False)
        for result in scored:
            result.scores = judge.score(result.samples, metrics=("fid", "kid"))


# ---- what is shown


def rows(demo: Demo) -> list[dict[str, Any]]:
    """The table, a row a setting, and a last one for real images, the floor. Intervals: (low, high), None where there is none."""
    out: list[dict[str, Any]] = []
    for result in demo.results:
        record, fid, kid = result.samples.record, result.score("fid"), result.score("kid")
        out.append({
            "title": result.setting.title, "eta": record["eta"], "nfe": record["nfe"], "scored": result.setting.scored,
            "seconds": record["seconds_per_image"], "n": record["n"], "fid": None if fid is None else fid.value,
            "kid": None if kid is None else kid.value, "floor": None if fid is None else fid.floor, "real": False,
            "fid_interval": None if fid is None else fid.interval, "kid_interval": None if kid is None else kid.interval,
        })  # fmt: skip
    first = next((r for r in demo.results if r.scores), None)
    if first is not None:
        fid, kid = first.score("fid"), first.score("kid")
        floor = None if fid is None else fid.floor
        out.append({
            "title": "real images: the floor", "eta": None, "nfe": None, "scored": False, "seconds": None,
            "n": None if fid is None else fid.floor_n, "fid": floor, "kid": None if kid is None else kid.floor, "floor": floor,
            "real": True, "fid_interval": None if fid is None else fid.floor_interval,
            "kid_interval": None if kid is None else kid.floor_interval,
        })  # fmt: skip
    return out


def intervals_in_words(demo: Demo) -> list[str]:
    """What the intervals are for, and why one or the other is missing: a sentence each."""
    scores = [score for result in demo.results for score in result.scores]
    told: list[str] = []
    known = {s.metric: s.level for s in scores if s.interval is not None}
    if known:
        levels = " and ".join(dict.fromkeys(f"{100 * level:g} %" for level in known.values()))
        what = ", ".join(f"{TITLES[metric]}'s for {INTERVALS[metric]}" for metric in known)
        told.append(f"In brackets: {levels} intervals, {what}.")
    lacking: dict[str, list[str]] = {}
    for score in scores:
        if score.interval is None:
            why = (score.note or "the record does not say why").removeprefix("no interval: ")
            lacking.setdefault(why, []).append(TITLES[score.metric])
        if score.floor is not None and score.floor_interval is None:
            why = f"one draw of {score.floor_n:,} real images is too little"
            lacking.setdefault(why, []).append(f"{TITLES[score.metric]} of real images")
    told += [f"No interval, {', '.join(dict.fromkeys(metrics))}: {why}." for why, metrics in lacking.items()]
    return told


def table(demo: Demo) -> "Table":
    """The table for a terminal."""
    from rich import box
    from rich.table import Table

    from alphabar.report.page import bracket, kid, sig

    title = f"{demo.about['n']:,} images a score. Lower is better; the floor is what as many real images get."
    out = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for name in ("sampler", "eta", "calls", "s/image", "FID", "KID ×1000"):
        out.add_column(name, justify="left" if name == "sampler" else "right", no_wrap=name != "sampler")
    for row in rows(demo):
        eta = "–" if row["eta"] is None else f"{row['eta']:g}"
        nfe = "–" if row["nfe"] is None else f"{row['nfe']:,.4g}" if row["nfe"] < 1000 else f"{row['nfe']:,.0f}"
        few = "few" if not row["scored"] and not row["real"] else None
        out.add_row(
            row["title"], eta, nfe, sig(row["seconds"]),
            few or f"{sig(row['fid'])} {bracket(row['fid_interval'])}".strip(),
            few or f"{kid(row['kid'])} {bracket(row['kid_interval'], kid)}".strip(),
            style="dim" if row["real"] else None,
        )  # fmt: skip
    return out


def _print(demo: Demo, page: Path) -> None:
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=100)
    console.print(table(demo))
    if any(not r.setting.scored for r in demo.results):
        console.print(f"few: {demo.few} images are too few for a score.", highlight=False)
    for sentence in intervals_in_words(demo):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"\nThe page, with all images, is [bold]{page}[/bold] ({demo.seconds / 60:.1f} minutes).\n", highlight=False)
    console.print("What next:", highlight=False)
    for command, why in NEXT:
        console.print(f"  {command.replace('OUT', str(page.parent))}\n      {why}", highlight=False, markup=False, soft_wrap=True)


NEXT = (
    ("alphabar sample bundled --n 64 --steps 25 --eta 1 --out OUT/more.npz", "draw more of them, your way"),
    ("alphabar train fashion_mnist --out runs/garments", "train the model yourself, with previews and scores as it runs"),
    ("alphabar data photos/", "look at a set of your own, to train on next"),
)


def _write(demo: Demo, out: Path) -> Path:
    """out/results.json and out/index.html."""
    from alphabar.report import page
    from alphabar.report import png as pictures
    from alphabar.report import svg as plots

    results = demo.to_json()
    write_atomically(out / "results.json", json.dumps(results, indent=1))
    lines = []
    for k, name in enumerate(dict.fromkeys(r.setting.line for r in demo.results if r.scores)):
        fids = sorted(
            (fid for r in demo.results if r.setting.line == name and (fid := r.score("fid")) is not None),
            key=lambda fid: float(fid.nfe or 0),
        )
        x, y, ends = [float(fid.nfe or 0) for fid in fids], [fid.value for fid in fids], [fid.interval for fid in fids]
        lines.append(plots.Line(name, x, y, ends, colour=k, markers=True, bars=True))
    table_rows = rows(demo)
    real = next((row for row in table_rows if row["real"]), None)
    levels = []
    if real is not None and real["fid"] is not None:
        said = f"{page.sig(real['fid'])} {page.bracket(real['fid_interval'])}".strip()
        levels = [plots.Level(f"real images, {said}", real["fid"], interval=real["fid_interval"])]
    ticks = sorted({x for line in lines for x in line.x})
    said = "; ".join(
        f"{line.label}: " + ", ".join(f"{page.sig(y)} at {x:g} calls" for x, y in zip(line.x, line.y, strict=True))
        for line in lines
    )
    scored = [row for row in table_rows if row["scored"] and row["fid"] is not None]
    shown = demo.few
    html = page.render(
        "demo.html.j2",
        title="The same garments in fewer calls",
        demo=demo, rows=table_rows, about=demo.about, machine=results["machine"],
        machine_words=page.machine_words(results["machine"]), made=page.stamp(),
        sheets=[
            {
                "title": r.setting.title, "eta": r.samples.record["eta"], "nfe": r.samples.record["nfe"],
                "seconds": r.samples.record["seconds_per_image"],
                "uri": pictures.png_uri(pictures.strip(r.samples.images[:shown])),
            }
            for r in demo.results
        ],
        real_uri=pictures.png_uri(pictures.strip(_some_real(demo.real, shown))), columns=shown,
        plot=plots.plot(
            "calls", f"FID against calls an image. {said}.", lines, levels=levels, x_label="network calls an image",
            x_ticks=ticks, log_x=True, from_zero=True, size=(400, 250),
        ),
        best=min(scored, key=lambda row: row["fid"], default=None), real=real, told=intervals_in_words(demo),
        barred=any(ends is not None for line in lines for ends in line.interval or ()),
        slow=next((row for row in table_rows if not row["scored"] and not row["real"]), None),
        path=_along(demo.trajectory), commands=[(c.replace("OUT", str(out)), why) for c, why in NEXT], results=results,
        score=next((r.scores[0] for r in demo.results if r.scores), None),
    )  # fmt: skip
    write_atomically(out / "index.html", html)
    return out / "index.html"


def _some_real(real: ImageSet, n: int) -> Pixels:
    """A few real images, one of each class in turn where the classes are known."""
    if real.labels is None:
        return np.asarray(real.pixels[:n])
    order = np.argsort(real.labels, kind="stable")
    starts = np.searchsorted(real.labels[order], np.unique(real.labels))
    picked = [int(order[s + k]) for k in range(n) for s in starts if s + k < len(order)][:n]
    return np.asarray(real.pixels[picked])


def _along(samples: Samples | None) -> dict[str, Any] | None:
    """x0_hat step by step, a row an image, and the images at the end."""
    from alphabar.report import png as pictures

    if samples is None or samples.x0 is None:
        return None
    columns = [*samples.x0, samples.images]
    grid = np.stack(columns, axis=1).reshape(-1, *samples.images.shape[1:])
    return {
        "uri": pictures.png_uri(pictures.strip(grid, columns=len(columns))), "columns": len(columns), "rows": len(samples.images),
        "sigmas": samples.record["grid"][:-1],
    }  # fmt: skip


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
