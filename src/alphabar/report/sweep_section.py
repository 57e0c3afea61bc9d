"""The sections of the report page about sweeps: the front of each, with the images of the settings on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alphabar.report import sweep_page
from alphabar.report.png import png_uri, smaller, strip
from alphabar.report.sheets import spread
from alphabar.report.sweep_words import front_words, time_caveats
from alphabar.report.words import column, interval_words, value_words
from alphabar.results.runs import RunData
from alphabar.results.sweeps import Row, Sweep, read_sweep
from alphabar.sampling.samples import Samples

ROWS, IMAGES = 8, 8  # settings of a front, and images of each


def sweep_sections(runs: Sequence[RunData], given: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """The sections, and a sentence for each sweep or image that cannot be read.

    Args:
        runs: their sweeps are shown.
        given: folders of other sweeps.

    Raises:
        ValueError: for a folder in `given` that does not hold a sweep.
    """
    folders = dict.fromkeys(folder.resolve() for folder in [*(f for run in runs for f in run.sweeps), *given])
    required = {folder.resolve() for folder in given}
    sections: list[dict[str, Any]] = []
    unread: list[str] = []
    for folder in folders:
        try:
            sweep = read_sweep(folder)
        except (OSError, ValueError) as e:
            if folder in required:
                raise ValueError(f"{folder} does not hold a sweep that can be shown: {e}") from e
            unread.append(f"A sweep cannot be shown: {e}.")
            continue
        sections.append(_section(sweep, f"front{len(sections)}", unread))
    return sections, unread


def _section(sweep: Sweep, key: str, unread: list[str]) -> dict[str, Any]:
    metric = next(iter(sweep.rows[0].standings))
    on = sweep.front(metric)
    shown = [row for k in spread(range(len(on)), ROWS) if (row := _row(on[k], metric, unread)) is not None]
    score, folder = sweep.rows[0].scores[metric], sweep.folder
    return {
        "name": f"{folder.name} of {folder.parents[1].name}" if folder.parent.name == "sweeps" else folder.name,
        "lead": front_words(sweep, metric), "settings": len(sweep.rows), "page": str(sweep.page), "rows": shown, "of": len(on),
        "figures": sweep_page.figures(sweep, [metric], key, size=(440, 270)), "legend": sweep_page.legend(sweep),
        "protocol": sweep.protocol, "n": sweep.protocol.get("n"), "caveats": time_caveats(sweep),
        "reference": score.reference_name, "floor": f"{column(metric)} {value_words(metric, score.floor)}",
    }  # fmt: skip


def _row(row: Row, metric: str, unread: list[str]) -> dict[str, Any] | None:
    """The images of a setting on the front."""
    try:
        images = Samples.load(row.samples).images[:IMAGES]
    except (OSError, ValueError, KeyError) as e:
        unread.append(f"The images of {row.title} cannot be shown: {e}.")
        return None
    score = row.scores[metric]
    return {
        "title": row.setting.method, "calls": row.calls, "score": f"{column(metric)} {value_words(metric, score.value)}",
        "ends": interval_words(metric, score.interval), "uri": png_uri(strip(smaller(images)[0])),
        "alt": f"{len(images)} images sampled by {row.title}.",
    }  # fmt: skip
