"""Tables for a terminal: the settings of a sweep, the variants of an experiment."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from alphabar.evaluation.score import TITLES
from alphabar.report.sweep_words import mark, score_words
from alphabar.report.words import column, estimate_words, sig, value_words
from alphabar.results.outcomes import Outcome
from alphabar.results.sweeps import COSTS, Sweep

if TYPE_CHECKING:
    from rich.table import Table


def sweep_table(sweep: Sweep, metrics: Sequence[str]) -> "Table":
    """One row a setting, the fewest calls first, and one for as many real images."""
    from rich import box
    from rich.table import Table

    title = f"{sweep.protocol['n']:,} images a setting, all from the same noise"
    out = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    first = metrics[0]
    for name in ("calls", "setting", "s/image", *(column(m) for m in metrics), f"{TITLES[first]} front: calls", "seconds"):
        left = name in ("setting", f"{TITLES[first]} front: calls", "seconds")
        out.add_column(name, justify="left" if left else "right", no_wrap=name != "setting")
    for row in sweep.rows:
        standings = row.standings[first]
        cells = [score_words(row.scores[m]) for m in metrics] + [mark(standings[cost]) for cost in COSTS]
        out.add_row(sig(row.calls), row.setting.method, sig(row.seconds), *cells, style="bold" if standings["calls"].on else None)
    scores = sweep.rows[0].scores
    out.add_row("", "real images (the floor)", "", *(value_words(m, scores[m].floor) for m in metrics), "", "", style="dim")
    return out


def experiment_table(outcome: Outcome) -> "Table":
    """One row a variant."""
    from rich import box
    from rich.table import Table

    out = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, title=outcome.experiment.hypothesis, title_justify="left")
    metrics = outcome.metrics
    for name in ("variant", "seeds", "images", "minutes each"):
        out.add_column(name, justify="left" if name == "variant" else "right")
    for m in metrics:
        out.add_column(f"{column(m)}, mean", overflow="fold")
        out.add_column(f"minus {outcome.experiment.than}", overflow="fold")
    for variant, means in outcome.means.items():
        trials = outcome.of(variant)
        cells = []
        for m in metrics:
            gap = outcome.differences.get(variant, {}).get(m)
            cells += [estimate_words(m, means[m].value, means[m].interval)]
            cells += ["" if gap is None else estimate_words(m, gap.value, gap.interval)]
        minutes = fmean(t.seconds for t in trials) / 60
        out.add_row(variant, str(len(trials)), f"{trials[0].images:,}", f"{minutes:.1f}", *cells)
    return out
