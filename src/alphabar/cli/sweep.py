"""`alphabar sweep`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alphabar.cli import show
from alphabar.cli.reading import Reading


def sweep(
    run: str,
    *,
    against: str,
    samplers: tuple[str, ...] | None = None,
    calls: tuple[int, ...] | None = None,
    steps: tuple[int, ...] = (),
    eta: tuple[float, ...] | None = None,
    plans: tuple[str, ...] = ("full",),
    grids: tuple[str, ...] = ("default",),
    clip: bool | None = None,
    threshold: float | None = None,
    guidance: float = 1.0,
    n: int = 2000,
    seed: int = 0,
    batch: int = 64,
    extractor: str = "bundled",
    metrics: tuple[str, ...] = ("fid", "kid"),
    name: str = "default",
    out: Path | None = None,
    checkpoint: str = "last",
    device: str | None = None,
    ray: str | None = None,
    shown: int = 16,
    dry_run: bool = False,
    reading: Reading = Reading(),
    as_json: show.Json = False,
) -> None:
    """Draw by many samplers at many numbers of calls from the same noise, score all, and show what a saved call costs.

    ```
    alphabar sweep bundled --against fashion_mnist:test --out sweep
    alphabar sweep runs/garments --against fashion_mnist:test --samplers ddim dpmpp_2m --calls 5 10 20 --n 5000
    ```

    Ends in a table and a page: quality against calls and against seconds with intervals, the front of what nothing beats for
    less, and the same seeds under every setting. A sweep that was stopped or killed goes on where it was with the same
    command; one with more samplers or calls adds to what is there. --dry-run says what it would draw.

    Under torchrun (torchrun --nproc_per_node 2 -m alphabar.cli.main -- sweep ...) the settings are dealt to the processes; --ray
    spreads them over the machines of a Ray cluster.

    Parameters
    ----------
    run
        a run folder, a .safetensors file, bundled, or diffusers:PATH, the folder of a pipeline.
    against
        SET or SET:SPLIT.
    samplers
        names in `alphabar samplers`, tuned, or tuned:NAME; with options as "heun(s_churn=40)". The usual ones if left out.
    calls
        the most network calls an image: 5 8 10 15 20 50 if both this and --steps are left out.
    steps
        numbers of steps, besides.
    eta
        for the samplers that take it; if left out, 0 and 1 of ddim and its like, 1 of the stochastic ones.
    plans
        which steps call the network, as full "every(3)"; a plan gets as many steps as the calls pay for.
    grids
        as for `alphabar sample`; default is the model's own.
    clip
        hold x0_hat within -1..1 in all of them, or --no-clip; what the model says if left out.
    threshold
        dynamic thresholding of x0_hat, a share such as 0.995.
    guidance
        of a conditional model, which draws all classes in turns; above 1 leads towards them, at twice the calls.
    n
        images a setting.
    seed
        of the noise, the same under every setting.
    batch
        images at a time.
    extractor
        as for `alphabar score`.
    metrics
        as for `alphabar score`; the first one sorts the table.
    name
        the sweep is kept in RUN/sweeps/NAME.
    out
        another folder to keep it in; sweep/ for bundled and for a single file.
    checkpoint
        last or best.
    device
        cpu, cuda, mps; the best there is if left out.
    ray
        local, or the address of a cluster; needs pip install 'alphabar[ray]'.
    shown
        images of every setting on the page.
    dry_run
        list the settings and what was left out, and draw nothing.
    """
    from alphabar.core.processes import world
    from alphabar.sampling.settings import CALLS
    from alphabar.verbs import sweep as sweeping

    wanted: dict[str, Any] = {
        "samplers": samplers, "calls": CALLS if calls is None and not steps else calls or (), "steps": steps,
        "etas": eta, "plans": plans, "grids": grids, "clip": clip, "threshold": threshold,
    }  # fmt: skip
    if dry_run:
        _show_planned(run, checkpoint, wanted, n, as_json)
        return
    try:
        done = sweeping.sweep(
            run, against, **wanted, n=n, seed=seed, batch=batch, extractor=extractor, metrics=metrics, reading=asdict(reading),
            guidance=guidance, name=name, out=out, checkpoint=checkpoint, device=device, ray=ray, shown=shown,
        )  # fmt: skip
    except KeyboardInterrupt as e:
        print(f"stopped; {e}, and the same command goes on from them", file=sys.stderr)
        raise SystemExit(130) from None
    if world()[0] != 0:  # one process speaks for all
        return
    if as_json:
        print(json.dumps(done.to_json()))
        return
    from rich.console import Console

    from alphabar.report.sweep_page import explained, table

    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table(done, metrics))
    for sentence in explained(done, metrics):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"page: {done.page}", highlight=False, markup=False, soft_wrap=True)


def _show_planned(run: str, checkpoint: str, wanted: dict[str, Any], n: int, as_json: bool) -> None:
    from alphabar.sampling.settings import settings
    from alphabar.training.checkpoint import load_model

    found, left_out = settings(load_model(run, checkpoint), **wanted)
    if as_json:
        rows = [{"name": s.name, "setting": s.to_json(), "calls": c} for s, c in found]
        print(json.dumps({"settings": rows, "left_out": [asdict(one) for one in left_out]}))
        return
    total = n * sum(c for _, c in found)
    show.table(
        ("calls", "setting", "steps"),
        [(f"{c:g}", s.method, str(s.steps)) for s, c in found],
        "what the sweep would draw",
    )
    print(f"{len(found)} settings of {n:,} images: {total:,.0f} times an image goes through the network")
    for one in left_out:
        print(f"left out: {one}")
