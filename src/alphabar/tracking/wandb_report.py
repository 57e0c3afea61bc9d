"""A comparison as a report in Weights & Biases: verdicts, scores with intervals, and the curves of the runs."""

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alphabar.core.stored_names import TRACKING, renamed
from alphabar.core.stored_values import read_object
from alphabar.evaluation.compare import Comparison
from alphabar.evaluation.score import TITLES
from alphabar.tracking.trackers import PROJECT, wandb_key

MISSING = "a report in W&B needs wandb-workspaces: pip install 'alphabar[wandb]'"
CURVES = ("train/loss", "heldout/loss", "score/fid", "score/kid")


def check_server() -> None:
    """Raises ImportError or ValueError if a report could not be saved; to be called before the comparison is computed."""
    if find_spec("wandb_workspaces") is None or find_spec("wandb") is None:
        raise ImportError(MISSING)
    if os.environ.get("WANDB_MODE") in ("offline", "disabled") or not wandb_key():
        raise ValueError("reports are stored on the server of W&B, which is not reachable: run wandb login, and unset WANDB_MODE")


def comparison_report(found: Sequence[Comparison], names: tuple[str, str], runs: Sequence[Path] = ()) -> Any:
    """The report (`wandb_workspaces.reports.v2.Report`), not yet saved; `.save()` needs a key and a server.

    Args:
        found: one comparison per metric; ValueError if there is none.
        names: of the two sides.
        runs: run folders; the curves of those that are tracked by W&B are shown.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError as e:
        raise ImportError(MISSING) from e
    if not found:
        raise ValueError("there is no comparison to report")
    project, entity = os.environ.get("WANDB_PROJECT", PROJECT), os.environ.get("WANDB_ENTITY", "")
    rows = "\n".join(
        f"| {TITLES.get(c.metric, c.metric)} | {c.a.estimate} | {c.b.estimate} | {c.difference} | {c.verdict} |" for c in found
    )
    how = f"{found[0].a.n:,} images each, {'the same noise' if found[0].paired else 'different noise'}"
    blocks: list[Any] = [
        wr.H1("Verdicts"),
        *(wr.P(c.words) for c in found),
        wr.H1("Scores"),
        wr.MarkdownBlock(f"| metric | {names[0]} | {names[1]} | difference | verdict |\n|--|--|--|--|--|\n{rows}\n\n{how}."),
    ]
    if tracked := [run.resolve().name for run in runs if _tracked_run(run).get("id")]:
        own = wr.Runset(entity=entity, project=project, query="|".join(f"^{re.escape(name)}$" for name in tracked))
        panels = [wr.LinePlot(x="Step", y=[curve]) for curve in CURVES]
        blocks += [wr.H1("Training"), wr.PanelGrid(runsets=[own], panels=[*panels, wr.MediaBrowser(media_keys=["samples"])])]
    return wr.Report(project=project, entity=entity, title=f"{names[0]} against {names[1]}", description=how, blocks=blocks)


def _tracked_run(run: Path) -> dict[str, Any]:
    try:
        state = read_object(run / "tracking" / "wandb.json")
        found = renamed(state, TRACKING)["tracked_run"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}
