"""`alphabar tune`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from alphabar.cli import show
from alphabar.cli.reading import Reading


def tune(
    run: str,
    *,
    calls: tuple[int, ...],
    fit: Literal["grid", "solver", "images", "features"] = "solver",
    base: str | None = None,
    name: str | None = None,
    against: str | None = None,
    extractor: str | None = None,
    judge: str = "bundled",
    n: int = 256,
    n_judge: int = 2000,
    seed: int | None = None,
    rounds: int = 3,
    steps: int = 14,
    rate: float = 0.02,
    eta: float = 0.3,
    batch: int = 512,
    bf16: bool = False,
    begin: str | None = None,
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

    Then `alphabar sample RUN --sampler tuned --steps 10`. Minutes on 2 cores for small models; features take longer. Writes a
    plot of the levels beside the standard grids. Ctrl-C ends a descent early and keeps what was found.

    Parameters
    ----------
    run
        a run folder, a .safetensors file, bundled, or diffusers:PATH.
    calls
        network calls an image; one sampler is fitted for each number.
    fit
        grid (levels only), solver (and coefficients, by least squares), images (and the gradient of the distance from a fine
        trajectory), features (and that of the Frechet distance to real images, with fresh noise).
    base
        sampler whose coefficients a fit of the levels takes; the best if left out. dpmpp_2m for a grid that diffusers is to walk.
    name
        under which it is kept; the fit's own if left out. --sampler tuned:NAME asks for it.
    against
        SET of real images, for features: its train split is fitted to, its test split judges.
    extractor
        for features: what is fitted to.
    judge
        for features: another extractor, which no fit has seen.
    n
        starting noises of the fine trajectory.
    n_judge
        images that the judge sees.
    seed
        of the fit; one that nobody samples with if left out.
    rounds
        of descent, for images and features; each goes 0.6 times as far as the one before.
    steps
        of a round.
    rate
        how far a step of the descent may change the images, root mean square, at first.
    eta
        share of fresh noise that a descent by features begins with; 0 leaves noise out.
    batch
        images a step of the descent.
    bf16
        multiply in bfloat16 while descending.
    begin
        name of fitted samplers that the run has, to descend from, with as many calls or fewer, which grow; or the .json file of
        one, which may be of another model, as of the run before it was trained on. Give another --seed with it, and a smaller
        --rate.
    out
        folder for the fitted samplers; tuned/ in the run, or here for bundled and single files.
    overwrite
        replace a fitted sampler of that name and number of calls.
    checkpoint
        last or best.
    device
        cpu, cuda, mps; the best there is if left out.
    """
    from alphabar.report.figures import draw_levels
    from alphabar.training.checkpoint import load_model
    from alphabar.verbs import tune as tuning

    descent = tuning.Descent(rounds=rounds, steps=steps, batch=batch, rate=rate, eta=eta, bf16=bf16)
    done = tuning.tune(
        run, calls, fit=fit, base=base, name=name, against=against, extractor=extractor, judge=judge, n=n, n_judge=n_judge,
        seed=tuning.SEED if seed is None else seed, descent=descent, begin=begin, out=out, overwrite=overwrite,
        reading=asdict(reading), checkpoint=checkpoint, device=device, progress=not as_json,
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
            "root mean square, images in [-1, 1], noise that no fit has seen"
            + ("; fresh noise makes images of their own, far from these" if t.fit.stochastic else ""),
        )  # fmt: skip
        for c in t.compared:
            print(c.words)
        print(f"{t.path}; levels: {picture}")
