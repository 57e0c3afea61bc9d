"""`alphabar sweep`."""

import sys
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from alphabar.cli import show
from alphabar.cli.reading import Reading
from alphabar.verbs.sweep_options import SweepOptions


def sweep(
    run: str,
    *,
    against: str,
    options: Annotated[SweepOptions, Parameter(name="*")] = SweepOptions(),
    dry_run: bool = False,
    reading: Reading = Reading(),
    as_json: show.Json = False,
) -> None:
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
        run: a run folder, a .safetensors file, bundled, or diffusers:PATH, the folder of a pipeline.
        against: SET or SET:SPLIT of real images.
        dry_run: list the settings and what is left out, and sample nothing.
    """
    from alphabar.core.processes import world
    from alphabar.verbs.sweep import sweep as run_sweep

    if dry_run:
        _show_planned(run, options, as_json)
        return
    with show.stopped_by_ctrl_c("stopped; {}, and the same command resumes the sweep"):
        done = run_sweep(run, against, options=options, reading=asdict(reading))
    if world()[0] != 0:  # the first process prints for all
        return
    if as_json:
        show.as_json_line(done.to_json())
        return
    from rich.console import Console

    from alphabar.report.sweep_words import explanations
    from alphabar.report.tables import sweep_table

    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(sweep_table(done, options.metrics))
    for sentence in explanations(done, options.metrics):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"page: {done.page}", highlight=False, markup=False, soft_wrap=True)


def _show_planned(run: str, options: SweepOptions, as_json: bool) -> None:
    """Prints the settings that the sweep would sample, and what is left out."""
    from alphabar.sampling.settings import settings
    from alphabar.training.checkpoint import load_model

    found, left_out = settings(load_model(run, options.checkpoint), **options.tried())
    if as_json:
        rows = [{"name": s.name, "setting": s.to_json(), "calls": c} for s, c in found]
        show.as_json_line({"settings": rows, "left_out": [asdict(one) for one in left_out]})
        return
    rows_shown = [(f"{c:g}", s.method, str(s.steps)) for s, c in found]
    show.table(("calls", "setting", "steps"), rows_shown, "settings that the sweep would sample")
    total = options.n * sum(c for _, c in found)
    print(f"{len(found)} settings of {options.n:,} images: {total:,.0f} network calls")
    for one in left_out:
        print(f"left out: {one}")
