"""`alphabar tune`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from alphabar.cli import show
from alphabar.cli.reading import Reading
from alphabar.fitting.options import TuneOptions


def tune(
    run: str,
    *,
    calls: tuple[int, ...],
    options: Annotated[TuneOptions, Parameter(name="*")] = TuneOptions(),
    out: Path | None = None,
    overwrite: show.Flag = False,
    checkpoint: str = "last",
    device: str | None = None,
    reading: Reading = Reading(),
    as_json: show.Json = False,
) -> None:
    """Fit a sampler of a few calls to a run: its levels, its coefficients, and, by real images, its noise.

    ```
    alphabar tune runs/garments --calls 5 10 20
    alphabar tune runs/garments --calls 10 --fit features --against fashion_mnist --extractor extractors/other.safetensors
    ```

    Then `alphabar sample RUN --sampler tuned --steps 10`. Takes minutes on 2 cores for small models, and longer by features.
    Writes a plot of the levels next to the standard grids. Ctrl-C ends a descent early and keeps what was found.

    Args:
        run: a run folder, a .safetensors file, bundled, or diffusers:PATH.
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
    if as_json:
        print(json.dumps([{**t.to_json(), "picture": p} for t, p in zip(done, pictures, strict=True)]))
        return
    for t, picture in zip(done, pictures, strict=True):
        rows = [(k, f"{v:.4f}") for k, v in sorted(t.distance.items(), key=lambda kv: kv[1])]
        show.table(
            (f"{t.fit.calls} calls", "distance from the fine trajectory"), rows,
            "root mean square, images in [-1, 1], noise that was not fitted to"
            + ("; fresh noise leads to other images, far from these" if t.fit.stochastic else ""),
        )  # fmt: skip
        for c in t.compared:
            print(c.words)
        print(f"{t.path}; levels: {picture}")
