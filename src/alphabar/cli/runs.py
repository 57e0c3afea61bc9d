"""The commands about run folders: `alphabar runs`, `runs prune`, `report`, `sync`, `export` and `push`."""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from cyclopts import App

from alphabar.cli import show
from alphabar.cli.options import Flag, Flat, Json
from alphabar.core.messages import plural, say
from alphabar.verbs.options import ExportOptions, PushOptions

STATES = ("finished", "stopped", "diverged", "stopped early", "open", "empty")
app = App(
    name="runs",
    help="List runs, and remove checkpoints without losing the record of what they were.\n\n"
    "```\nalphabar runs\nalphabar runs runs/ --where data.set=fashion_mnist train.lr=0.001 --state finished\n```",
    help_format="markdown",
)


def runs_folder() -> Path:
    """Where runs are looked for by default: runs/ where it exists, else this folder."""
    return Path("runs") if Path("runs").is_dir() else Path()


@app.default
def list_runs(
    *roots: Path, where: tuple[str, ...] = (), state: tuple[str, ...] = (), model: str | None = None, as_json: Json = False
) -> None:
    """List the runs below some folders: where their recipes differ, their state, best score, and cost in images, FLOPs and hours.

    ```
    alphabar runs
    alphabar runs runs/ experiments/ --where data.set=fashion_mnist train.lr=0.001 --state finished --json
    ```

    Args:
        roots: folders that hold runs; runs/ where there is one, else this folder.
        where: recipe keys and the values they must have, as train.lr=0.001.
        state: finished, stopped, diverged, "stopped early", open or empty: only runs in one of these states.
        model: a fingerprint, by which samples and scores name their model: print only which run and checkpoint it is or was.
    """
    from alphabar.core.progress import duration
    from alphabar.results.run_list import find_runs, summaries

    paths = find_runs(roots or [runs_folder()])
    if model is not None:
        _origin(paths, model, as_json)
        return
    if bad := [w for w in where if "=" not in w]:
        raise ValueError(f"--where {bad[0]}: write KEY=VALUE, as train.lr=0.001")
    if bad := [s for s in state if s not in STATES]:
        raise ValueError(f"--state {bad[0]}: use {', '.join(STATES[:-1])} or {STATES[-1]}")
    rows = summaries(paths, dict(w.split("=", 1) for w in where), state)
    if show.done(rows, as_json):
        return
    if not rows:
        say(f"no {'matching ' if paths else ''}runs below {', '.join(map(str, roots)) or 'this folder'}")
        show.hint("train", "SET", "--out", "runs/NAME")
        return
    common = os.path.commonpath([str(Path(r.path).parent) for r in rows])
    show.table(
        ("run", "state", "images", "time", "FID", "what differs"),
        [
            (
                os.path.relpath(r.path, common) if common else r.path, r.state, _images(r.images, r.budget),
                "–" if r.hours is None else duration(3600 * r.hours), _number(r.fid, ".3g"),
                ", ".join(f"{k} {v}" for k, v in r.differs.items() if k != "train.images"),
            )
            for r in rows
        ],
        plural(len(rows), "run") + (f" in {common}" if common else "") + "; --json has all figures", one_line=True,
    )  # fmt: skip
    for row in rows:
        for words in row.faults:
            say(f"{row.path}: {words}", sys.stderr)
    show.hint("report", *[Path(r.path) for r in rows[:3]])


def _origin(paths: Sequence[Path], model: str, as_json: bool) -> None:
    """Prints which run and checkpoint a model's fingerprint belongs to."""
    from alphabar.results.run_list import origin

    found: list[dict[str, Any]] = origin(paths, model)
    if show.done(found, as_json):
        return
    for row in found:
        say(f"{row['run']}, checkpoint {row['checkpoint']}, {row['images']} images" + ("" if row["there"] else "; removed"))
    if not found:
        say(f"none of {len(paths)} runs has or had the model {model}")
    show.hint(*(("report", Path(found[0]["run"])) if found else ("runs",)))


def _images(images: int | None, budget: int | None) -> str:
    """64000, of 2000000 -> "64k of 2M"."""
    from alphabar.report.words import short

    return "–" if images is None else short(images) + (f" of {short(budget)}" if budget and budget != images else "")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


@app.command
def prune(*runs: Path, keep: tuple[str, ...] = ("last", "best"), yes: bool = False, as_json: Json = False) -> None:
    """Remove checkpoints, after asking. The number of images and the fingerprint of each stay in the run's lineage.jsonl, so that
    samples and scores can still be traced to it; recipe, record and samples stay.

    ```
    alphabar runs prune runs/garments --keep best
    alphabar runs prune runs/old runs/older --keep none --yes
    ```

    Args:
        runs: run folders.
        keep: the checkpoints that stay: last, best, last.old, snapshots; none: no checkpoint stays.
        yes: do not ask.
    """
    from alphabar.results.run_list import plan_removals, remove

    if not runs:
        raise ValueError("name a run folder, as in `alphabar runs prune runs/garments --keep best`")
    planned = plan_removals(runs, () if keep == ("none",) else keep)
    if not planned:
        say("there is nothing to remove", sys.stderr)
        if not as_json:
            show.hint("runs")
        return
    for r in planned:
        what = f"{r.run}: {r.name}, {r.size / 2**20:.1f} MiB" + (f", {r.images:,} images" if r.images is not None else "")
        say(what + (f"; {r.loses}" if r.loses else ""), sys.stderr)
    if not yes:
        if not sys.stdin.isatty():
            raise ValueError("there is no terminal to ask in: read the list, and add --yes")
        if input("remove these? [y/N] ").strip().lower() not in ("y", "yes"):
            say("nothing was removed", sys.stderr)
            return
    freed = remove(planned)
    if show.done({"freed": freed, "removed": [[r.run, r.name, r.model] for r in planned]}, as_json):
        return
    say(f"{freed / 2**20:.1f} MiB freed; their record is in lineage.jsonl of each run")
    show.hint("runs", *dict.fromkeys(Path(run).parent for run in runs))


def report(
    *runs: Path, out: Path = Path("report.html"), sweep: tuple[Path, ...] = (), trajectory: bool | None = None,
    with_paths: Flag = False, live: Flag = False,
) -> None:  # fmt: skip
    """Write one page about one or several runs: what differs, curves, scores, same-seed images, verdicts, the way from noise.

    ```
    alphabar report runs/garments --out garments.html
    alphabar report runs/a runs/b --out compared.html
    ```

    The page is one file that works offline. It shows what is in the run folders, sweeps and comparisons included, and the
    verdict of the experiment that trained them.

    Args:
        runs: run folders, or the folder of an experiment for all its trainings.
        out: the page to write.
        sweep: folders of sweeps that are not in the runs.
        trajectory: sample the way from noise to image for runs that kept none. Left out: only where that takes seconds;
            --no-trajectory: never.
        with_paths: name the runs by their whole paths on this machine.
        live: of one run, let the page draw new images in the reader's browser, as `alphabar export RUN --to page.html`; it adds
            6 MB and the weights.
    """
    from alphabar.report.report_page import write_report

    if not runs:
        raise ValueError("name at least one run, as in: alphabar report runs/garments")
    path = write_report(list(runs), out, sweeps=sweep, draw=trajectory, with_paths=with_paths, live=live)
    say(path)
    show.look(path)


def sync(*runs: Path, to: tuple[str, ...] = (), as_json: Json = False) -> None:
    """Send the record of a run to trackers: the events that a tracker has not received yet.

    ```
    alphabar sync runs/garments --to tensorboard
    alphabar sync runs/garments --to wandb mlflow
    ```

    Args:
        runs: run folders.
        to: wandb, tensorboard, mlflow, trackio, or module:Class for a tracker that you wrote; if left out, those in the run's
            recipe.
    """
    from alphabar.core.run import Run
    from alphabar.tracking.outbox import sync
    from alphabar.training.config import resolve

    if not runs:
        raise ValueError("name a run folder, as in `alphabar sync runs/garments --to tensorboard`")
    found = {}
    for path in runs:
        names = to or resolve(Run(path).recipe).track
        if not names:
            raise ValueError(f"{path} has no trackers in its recipe: name some, as in --to tensorboard")
        with redirect_stdout(sys.stderr):  # trackers print messages
            found[str(path)] = sync(path, names)
    if show.done(found, as_json):
        return
    for run, trackers in found.items():
        for name, result in trackers.items():
            say(f"{run}: {result['sent']} events to {name}")
    show.look("; ".join(dict.fromkeys(result["where"] for trackers in found.values() for result in trackers.values())))


def export(run: str, *, to: str = "diffusers", out: Path | None = None, options: Flat[ExportOptions] = ExportOptions()) -> None:
    """Write a run for others: a page that draws new images in any browser, one ONNX file, or a folder for diffusers.

    ```
    alphabar export bundled --to garments.html
    alphabar export bundled --to garments.onnx
    ```

    The page is one file, which works offline and asks no other machine for anything. The ONNX file is the denoiser, with noisy
    images and sigma as inputs, for any number of images. Diffusers takes runs that were trained with --model.network unet2d
    --schedule.kind linear --model.data-range 1. `alphabar train --dry-run` says beforehand what a recipe can be exported to.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH, lucidrains:FILE@SIZE or hf:OWNER/NAME.
        to: NAME.html: a page. NAME/, with the slash: the same page as a folder of files, for a web server. NAME.onnx: that
            file. diffusers: the folder of a pipeline, with its weights in safetensors. timesteps: for every sampler that
            `alphabar tune` fitted to the run, the list that set_timesteps(timesteps=...) takes.
        out: for diffusers a folder that is empty or does not exist; for timesteps a JSON file, printed if left out.
    """
    from alphabar.verbs.export import export

    say("\n".join(export(run, to, out, options=options)))


def push(run: str, repo: str, *, options: Flat[PushOptions] = PushOptions()) -> None:
    """Put a run on the Hugging Face Hub, with a model card made from its scores. hf:OWNER/NAME then stands for it everywhere.

    ```
    alphabar push runs/garments anna/garments --license mit --dry-run
    alphabar push runs/garments anna/garments --license mit --private
    ```

    Averaged weights, recipe, scores of exactly these weights, fitted samplers and the distilled model go there, as safetensors,
    JSON and TOML. What holds a path, your user name or the name of this machine is refused. It needs a token: `hf auth login`, or
    HF_TOKEN.

    Args:
        run: a run folder, a .safetensors file of alphabar, or bundled.
        repo: OWNER/NAME. A repository that holds such a run gets a new commit.
    """
    from alphabar.verbs.push import push

    say("\n".join(push(run, repo, options=options)))
