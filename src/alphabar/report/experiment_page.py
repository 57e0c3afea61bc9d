"""What an experiment found: rows, paired differences over seeds, a verdict on the hypothesis, and its page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alphabar.core.files import write_atomically
from alphabar.core.run import flat
from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import shown as as_shown
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.estimate import Estimate, over_seeds
from alphabar.evaluation.measured import Measured
from alphabar.evaluation.score import HIGHER, TITLES
from alphabar.report import page
from alphabar.report import svg as plots
from alphabar.report.png import png_uri, strip
from alphabar.report.sweep_page import column
from alphabar.results.experiments import Experiment
from alphabar.sampling.samples import Samples

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, eq=False)
class Trial:
    """One variant from one seed. images: seen in training, which took `seconds`."""

    variant: str
    seed: int
    run: Path
    images: int
    seconds: float
    samples: Path
    machine: Mapping[str, Any]
    measured: Measured

    @classmethod
    def from_json(cls, row: Mapping[str, Any], measured: Measured, folder: Path) -> "Trial":
        return cls(
            row["variant"], int(row["seed"]), folder / row["run"], int(row["images"]), float(row["seconds"]),
            folder / row["samples"], row["machine"], measured,
        )  # fmt: skip

    def value(self, metric: str) -> float:
        return self.measured.scores[metric].value


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an experiment found.

    means: by variant and metric, over its seeds. differences: by variant and metric, the variant less `than` over the seeds that
    both have. within: by variant and seed, the same difference of one pair of trained models, image by image on the same noise.
    verdict: "supported", "contradicted", "not decided"; words: that in a sentence.
    """

    told: Experiment
    folder: Path
    trials: list[Trial]
    means: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    within: dict[str, dict[int, list[Comparison]]]
    verdict: str
    words: str
    finished: bool = True

    @property
    def page(self) -> Path:
        return self.folder / "index.html"

    def of(self, variant: str) -> list[Trial]:
        return [t for t in self.trials if t.variant == variant]

    def to_json(self) -> dict[str, Any]:
        """Plain data, for json.dumps."""
        return {
            "experiment": self.told.to_json(), "verdict": self.verdict, "words": self.words, "finished": self.finished,
            "page": str(self.page),
            "means": {v: {m: e.to_json() for m, e in by.items()} for v, by in self.means.items()},
            "differences": {v: {m: e.to_json() for m, e in by.items()} for v, by in self.differences.items()},
            "within": {v: {str(s): [c.to_json() for c in cs] for s, cs in by.items()} for v, by in self.within.items()},
            "trials": [
                {
                    "variant": t.variant, "seed": t.seed, "run": str(t.run), "images": t.images, "seconds": t.seconds,
                    "samples": str(t.samples), "scores": [s.to_json() for s in t.measured.scores.values()],
                }
                for t in self.trials
            ],
        }  # fmt: skip


def conclude(told: Experiment, folder: Path, trials: Sequence[Trial], *, finished: bool = True) -> Outcome:
    """Means, paired differences against `told.than`, and the verdict, from the trials that are there."""
    names = [v for v in told.variants if any(t.variant == v for t in trials)]
    by = {(t.variant, t.seed): t for t in trials}
    metrics = list(trials[0].measured.scores) if trials else []
    means = {v: {m: over_seeds([t.value(m) for t in trials if t.variant == v]) for m in metrics} for v in names}
    differences: dict[str, dict[str, Estimate]] = {}
    within: dict[str, dict[int, list[Comparison]]] = {}
    for v in names:
        seeds = [s for s in told.seeds if (v, s) in by and (told.than, s) in by]
        if v == told.than or not seeds:
            continue
        pairs = {s: (by[v, s], by[told.than, s]) for s in seeds}
        differences[v] = {m: over_seeds([a.value(m) - b.value(m) for a, b in pairs.values()]) for m in metrics}
        within[v] = {s: compare_measured(a.measured, b.measured, names=(v, told.than)) for s, (a, b) in pairs.items()}
    verdict, words = _verdict(told, differences.get(told.better, {}).get(told.metric))
    return Outcome(told, folder, list(trials), means, differences, within, verdict, words, finished)


def _verdict(told: Experiment, gap: Estimate | None) -> tuple[str, str]:
    title = TITLES[told.metric]
    if gap is None:
        return "not decided", f"No seed has both {told.better} and {told.than} yet."
    n = len(told.seeds)
    found = f"{title} of {told.better} less that of {told.than}, over {n} {'seed' if n == 1 else 'seeds'}: {gap}"
    if gap.interval is None:
        return "not decided", f"{found}. One seed cannot tell the variants from luck: give two or more."
    low, high = gap.interval
    if low <= 0 <= high:
        return "not decided", f"{found}. The interval holds 0: these seeds and this budget do not decide it."
    good = (low > 0) == (told.metric in HIGHER)
    return ("supported" if good else "contradicted"), f"{found}. The hypothesis is {'supported' if good else 'contradicted'}."


def table(outcome: Outcome) -> "Table":
    """A row a variant, for a terminal."""
    from rich import box
    from rich.table import Table

    out = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, title=outcome.told.hypothesis, title_justify="left")
    metrics = list(next(iter(outcome.means.values()), {}))
    for name in ("variant", "seeds", "images", "minutes each"):
        out.add_column(name, justify="left" if name == "variant" else "right")
    for m in metrics:
        out.add_column(f"{column(m)}, mean", overflow="fold")
        out.add_column(f"less {outcome.told.than}", overflow="fold")
    for v, by in outcome.means.items():
        own = outcome.of(v)
        cells = []
        for m in metrics:
            cells += [_shown(m, by[m]), _shown(m, outcome.differences[v][m]) if v in outcome.differences else ""]
        minutes = np.mean([t.seconds for t in own]) / 60
        out.add_row(v, str(len(own)), f"{own[0].images:,}", f"{minutes:.1f}", *cells)
    return out


def _shown(metric: str, e: Estimate) -> str:
    words = page.kid if metric == "kid" else page.sig
    return f"{words(e.value)} {page.bracket(e.interval, words)}".strip()


# ---- the page


def write_page(outcome: Outcome, real: Pixels, shown: int) -> Path:
    """Writes the experiment's page, one file without a network, and outcome.json, from which `report` takes the verdict.

    real: images to be put beside.
    """
    write_atomically(outcome.folder / "outcome.json", json.dumps(outcome.to_json(), indent=1) + "\n")
    told = outcome.told
    metrics = list(next(iter(outcome.means.values()), {}))
    sheets = []
    for v in outcome.means:
        for t in outcome.of(v)[:1]:
            images = Samples.load(t.samples).images[:shown]
            sheets.append({
                "name": v, "seed": t.seed, "score": f"{TITLES[told.metric]} {page.sig(t.value(told.metric))}",
                "uri": png_uri(strip(as_shown(images))), "alt": f"{len(images)} images drawn from variant {v}.",
            })  # fmt: skip
    html = page.render(
        "experiment.html.j2", title=told.hypothesis, outcome=outcome, told=told, metrics=metrics,
        titles={m: column(m) for m in metrics},
        rows=_rows(outcome, metrics), seeds=_by_seed(outcome), plots=[p for m in metrics if (p := _plot(outcome, m))],
        differing=_differing(told), sheets=sheets, real_uri=png_uri(strip(as_shown(real))), real_count=len(real),
        machines=sorted({t.machine["cpu"] for t in outcome.trials}), made=page.stamp(),
        first=outcome.trials[0].measured.scores[told.metric] if outcome.trials else None,
    )  # fmt: skip
    write_atomically(outcome.page, html)
    return outcome.page


def _rows(outcome: Outcome, metrics: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": v, "trials": outcome.of(v), "means": [_shown(m, by[m]) for m in metrics],
            "gaps": [_shown(m, outcome.differences[v][m]) if v in outcome.differences else "" for m in metrics],
        }
        for v, by in outcome.means.items()
    ]  # fmt: skip


def _by_seed(outcome: Outcome) -> list[dict[str, Any]]:
    m = outcome.told.metric
    out = []
    for t in outcome.trials:
        found = outcome.within.get(t.variant, {}).get(t.seed, [])
        out.append({
            "trial": t, "score": str(t.measured.scores[m]), "against": next((c.words for c in found if c.metric == m), ""),
        })  # fmt: skip
    return out


def _plot(outcome: Outcome, metric: str) -> dict[str, Any] | None:
    """A line a seed over the variants: parallel lines are a difference that every seed shows."""
    names = list(outcome.means)
    times = 1000.0 if metric == "kid" else 1.0
    lines, alt = [], []
    for k, seed in enumerate(outcome.told.seeds):
        own = {t.variant: t for t in outcome.trials if t.seed == seed}
        x = [float(names.index(v)) for v in names if v in own]
        y = [times * own[v].value(metric) for v in names if v in own]
        lines.append(plots.Line(f"seed {seed}", x, y, colour=k, markers=True))
        alt.append(f"seed {seed}: " + ", ".join(f"{v} {page.sig(a)}" for v, a in zip(own, y, strict=True)))
    made = plots.plot(
        f"trial{metric.replace('_', '')}", f"{TITLES[metric]} by variant. {'; '.join(alt)}.", lines,
        x_label="variant", x_names=names,
    )  # fmt: skip
    return None if made is None else {"title": column(metric), "plot": made}


def _differing(told: Experiment) -> list[tuple[str, list[str]]]:
    """The recipe keys in which the variants differ, and what each has."""
    told_of = [flat(asdict(r)) for r in told.variants.values()]
    return [(k, [str(f[k]) for f in told_of]) for k in told_of[0] if len({str(f[k]) for f in told_of}) > 1]
