"""The commands about samplers: `alphabar samplers`, `tune` and `sweep`."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from alphabar.cli import show
from alphabar.cli.options import Flag, Flat, Json, Reading
from alphabar.core.bounds import Steps
from alphabar.core.messages import console, printable, say
from alphabar.fitting.options import TuneOptions
from alphabar.verbs.options import SweepOptions


@Parameter(name="*")
@dataclass(frozen=True)
class TuneReading(Reading):
    """How images are read, where --fit says what is fitted."""

    fit: Annotated[Literal["crop", "pad", "stretch"] | None, Parameter(name="--size-fit")] = None
    """The way to that size, which other commands call --fit: crop (the default), pad or stretch."""


def samplers(*, as_json: Json = False) -> None:
    """List the samplers: the purpose of each, its order, its network calls for ten steps, and its options.

    ```
    alphabar samplers
    alphabar samplers --json
    ```
    """
    from alphabar.sampling.catalogue import SAMPLERS

    options = {e.name: [k for k in e.options if k != "data_range"] for e in SAMPLERS.values()}
    rows = [
        {"name": e.name, "order": e.order, "stochastic": e.stochastic, "calls_of_10_steps": e.calls(10),
         "options": options[e.name], "summary": e.summary} for e in SAMPLERS.values()
    ]  # fmt: skip
    if show.done(rows, as_json):
        return
    show.table(
        ("sampler", "order", "calls of 10 steps", "options", "purpose"),
        [(e.name, str(e.order), str(e.calls(10)), ", ".join(options[e.name]), e.summary) for e in SAMPLERS.values()],
        "samplers; and tuned, once `alphabar tune` has fitted one to the model",
    )
    show.hint("sample", "bundled", "--sampler", "unipc", "--steps", 10, "--out", "unipc.npz")


def tune(
    run: str, *, calls: tuple[Steps, ...], options: Flat[TuneOptions] = TuneOptions(), out: Path | None = None,
    overwrite: Flag = False, checkpoint: str = "last", device: str | None = None,
    reading: TuneReading = TuneReading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Fit a sampler of a few calls to a run: its levels, its coefficients, and, by real images, its noise.

    ```
    alphabar tune runs/garments --calls 5 10 20
    alphabar tune runs/garments --calls 10 --fit features --against fashion_mnist --extractor extractors/other.safetensors
    ```

    Then `alphabar sample RUN --sampler tuned --steps 10`. Takes minutes on 2 cores for small models, and longer by features.
    Writes a plot of the levels next to the standard grids. Ctrl-C ends a descent early and keeps what was found.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH, lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        calls: network calls per image; one sampler is fitted for each number.
        out: folder for the fitted samplers; tuned/ in the run, or in the current folder for bundled and single files.
        overwrite: replace a fitted sampler of that name and number of calls.
        checkpoint: last, best or ema:LENGTH.
        device: cpu, cuda or mps; the fastest there is if left out.
    """
    from alphabar.report.figures import draw_levels
    from alphabar.training.checkpoint import load_model
    from alphabar.verbs.tune import tune as tune_run

    done = tune_run(
        run, calls, options, out=out, overwrite=overwrite, reading=asdict(reading), checkpoint=checkpoint, device=device,
        progress=not as_json,
    )  # fmt: skip
    schedule = load_model(run, checkpoint).schedule
    pictures = [str(draw_levels(t.fit, schedule, t.path.with_suffix(".png"))) for t in done]
    if show.done([{**t.to_json(), "picture": p} for t, p in zip(done, pictures, strict=True)], as_json):
        return
    for t, picture in zip(done, pictures, strict=True):
        rows = [(k, f"{v:.4f}") for k, v in sorted(t.distance.items(), key=lambda kv: kv[1])]
        far = "; fresh noise leads to other images, far from these" if t.fit.stochastic else ""
        title = f"root mean square, images in [-1, 1], noise that was not fitted to{far}"
        show.table((f"{t.fit.calls} calls", "distance from the fine trajectory"), rows, title)
        for c in t.compared:
            say(c.words)
        say(f"{t.path}; levels: {picture}")
    show.hint("sample", run, "--sampler", "tuned", "--steps", done[-1].fit.calls, "--out", "tuned.npz")


def sweep(
    run: str, *, against: str, options: Flat[SweepOptions] = SweepOptions(), dry_run: bool = False,
    reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Sample with many samplers at many numbers of network calls from the same noise, score all, and show the value of each call.

    ```
    alphabar sweep bundled --against fashion_mnist:test --out sweep
    alphabar sweep runs/garments --against fashion_mnist:test --samplers ddim dpmpp_2m --calls 5 10 20 --n 5000
    ```

    Writes a table and a page: quality against calls and against seconds with intervals, the front (the settings that no other
    setting beats at no higher cost), and the same seeds under every setting. The same command resumes a sweep that was stopped or
    killed; with more samplers or calls it adds to the sweep.

    Under torchrun (torchrun --nproc_per_node 2 -m alphabar -- sweep ...) the settings are divided among the processes; --ray
    divides them among the machines of a Ray cluster.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH (a pipeline), lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        against: SET or SET:SPLIT of real images.
        dry_run: list the settings and what is left out, and sample nothing.
    """
    from alphabar.verbs.sweep import sweep as run_sweep

    if dry_run:
        _show_planned(run, options, as_json)
        return
    with show.stopped_by_ctrl_c("stopped; {}, and the same command resumes the sweep"):
        done = run_sweep(run, against, options=options, reading=asdict(reading))
    if show.done(done, as_json):
        return
    from alphabar.report.sweep_page import explanations, sweep_table

    wide = console(None if sys.stdout.isatty() else 160)
    wide.print(sweep_table(done, options.metrics))
    for sentence in explanations(done, options.metrics):
        wide.print(printable(sentence))
    show.look(done.page)


def _show_planned(run: str, options: SweepOptions, as_json: bool) -> None:
    """Prints the settings that the sweep would sample, and what is left out."""
    from alphabar.sampling.settings import settings
    from alphabar.training.checkpoint import load_model

    found, left_out = settings(load_model(run, options.checkpoint), **options.tried())
    rows = [{"name": s.name, "setting": s, "calls": c} for s, c in found]
    if show.done({"settings": rows, "left_out": left_out}, as_json):
        return
    rows_shown = [(f"{c:g}", s.method, str(s.steps)) for s, c in found]
    show.table(("calls", "setting", "steps"), rows_shown, "settings that the sweep would sample")
    total = options.n * sum(c for _, c in found)
    say(f"{len(found)} settings of {options.n:,} images: {total:,.0f} network calls")
    for one in left_out:
        say(f"left out: {one}")
    show.without_dry_run()
