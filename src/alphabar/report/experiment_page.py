"""The page of an experiment: its verdict, what differs between the variants, scores by seed, and images."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from alphabar.core.files import write_json
from alphabar.core.messages import cells, printable
from alphabar.core.places import without_places
from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import Levels, levels_of
from alphabar.evaluation.score import TITLES
from alphabar.report import page, svg
from alphabar.report.png import png_uri, strip
from alphabar.report.words import column, estimate_words, sig
from alphabar.results.outcomes import Outcome
from alphabar.results.runs import OUTCOME
from alphabar.sampling.samples import Samples

if TYPE_CHECKING:
    from rich.table import Table


def write_page(outcome: Outcome, real: Pixels, shown: int) -> Path:
    """Writes outcome.json, from which `report` takes the verdict, and the page, with `shown` images of every variant."""
    write_json(outcome.folder / OUTCOME, without_places(outcome.to_json()))
    experiment, metrics, levels = outcome.experiment, outcome.metrics, levels_of(real)
    against = without_places(experiment.scoring.against)
    shown_experiment = replace(experiment, scoring=replace(experiment.scoring, against=against))
    return page.write_page(
        outcome.page, "experiment.html.j2", near=[outcome.folder],
        title=experiment.hypothesis, outcome=outcome, experiment=shown_experiment,
        metrics=[column(m) for m in metrics], rows=_rows(outcome), seeds=_by_seed(outcome),
        plots=[p for m in metrics if (p := _plot(outcome, m))], differing=experiment.differing(),
        sheets=_sheets(outcome, shown, levels), real_uri=png_uri(strip(real, levels=levels)), real_count=len(real),
        machines=sorted({t.machine["cpu"] for t in outcome.trials}),
        first=outcome.trials[0].measured.scores[experiment.metric] if outcome.trials else None,
    )  # fmt: skip


def _sheets(outcome: Outcome, shown: int, levels: Levels) -> list[dict[str, Any]]:
    """Images of the first trial of every variant."""
    out = []
    for variant in outcome.means:
        trial = outcome.of(variant)[0]
        images = Samples.load(trial.samples).images[:shown]
        out.append({
            "name": variant, "seed": trial.seed,
            "score": f"{TITLES[outcome.experiment.metric]} {sig(trial.value(outcome.experiment.metric))}",
            "uri": png_uri(strip(images, levels=levels)), "alt": f"{len(images)} images sampled from variant {variant}.",
        })  # fmt: skip
    return out


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    """A row a variant: its trials, and for each metric its mean and its difference."""
    return [{"name": v, "trials": outcome.of(v), "values": _values(outcome, v)} for v in outcome.means]


def _values(outcome: Outcome, variant: str) -> list[tuple[str, str]]:
    """Of each metric the mean and the difference."""
    gaps = outcome.differences.get(variant, {})
    words = {m: estimate_words(m, e.value, e.interval) for m, e in gaps.items()}
    return [(estimate_words(m, e.value, e.interval), words.get(m, "")) for m, e in outcome.means[variant].items()]


def _by_seed(outcome: Outcome) -> list[dict[str, Any]]:
    """A row a trial: its score, and its comparison with the variant `than` of the same seed."""
    m, within = outcome.experiment.metric, outcome.within
    against = [{c.metric: c.words for c in within.get(t.variant, {}).get(t.seed, [])} for t in outcome.trials]
    pairs = zip(outcome.trials, against, strict=True)
    return [{"trial": t, "score": str(t.measured.scores[m]), "against": words.get(m, "")} for t, words in pairs]


def _plot(outcome: Outcome, metric: str) -> dict[str, Any] | None:
    """A line a seed over the variants: parallel lines show a difference that every seed has."""
    names = list(outcome.means)
    times = 1000.0 if metric == "kid" else 1.0
    lines, alt = [], []
    for k, seed in enumerate(outcome.experiment.seeds):
        own = {t.variant: t for t in outcome.trials if t.seed == seed}
        x = [float(names.index(v)) for v in names if v in own]
        y = [times * own[v].value(metric) for v in names if v in own]
        lines.append(svg.Line(f"seed {seed}", x, y, colour=k, markers=True))
        alt.append(f"seed {seed}: " + ", ".join(f"{v} {sig(a)}" for v, a in zip(own, y, strict=True)))
    made = svg.plot(
        f"trial{metric.replace('_', '')}", f"{TITLES[metric]} by variant. {'; '.join(alt)}.", lines,
        x_label="variant", x_names=names,
    )  # fmt: skip
    return None if made is None else {"title": column(metric), "plot": made}


def experiment_table(outcome: Outcome) -> "Table":
    """A table for a terminal: one row a variant."""
    from rich import box
    from rich.table import Table

    out = Table(
        box=box.SIMPLE, show_edge=False, pad_edge=False, title=printable(outcome.experiment.hypothesis), title_justify="left"
    )
    for name in ("variant", "seeds", "images", "minutes each"):
        out.add_column(name, justify="left" if name == "variant" else "right")
    for m in outcome.metrics:
        out.add_column(f"{column(m)}, mean", overflow="fold")
        out.add_column(*cells([f"minus {outcome.experiment.than}"]), overflow="fold")
    for variant in outcome.means:
        trials = outcome.of(variant)
        values = [cell for pair in _values(outcome, variant) for cell in pair]
        minutes = fmean(t.seconds for t in trials) / 60
        out.add_row(*cells([variant, len(trials), f"{trials[0].images:,}", f"{minutes:.1f}", *values]))
    return out
