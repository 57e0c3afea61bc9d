"""`alphabar sample`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from alphabar.cli import show

Interval = Annotated[tuple[float, float] | None, Parameter(help="LOW HIGH: levels (sigma) within which guidance acts")]


def sample(
    run: str,
    *,
    out: str,
    n: int = 64,
    sampler: str = "ddim",
    steps: int = 50,
    eta: float | None = None,
    options: Annotated[dict[str, int | float | str] | None, Parameter(help="of the sampler, as --options.s_churn 40")] = None,
    seed: int = 0,
    batch: int = 64,
    grid: str | None = None,
    plan: str | None = None,
    clip: bool | None = None,
    threshold: float | None = None,
    variance: str | None = None,
    tuned: Path | None = None,
    classes: tuple[str, ...] | None = None,
    guidance: float | None = None,
    guidance_interval: Interval = None,
    fast: str = "auto",
    precision: Literal["float32", "bf16"] = "float32",
    checkpoint: str = "last",
    device: str | None = None,
    as_json: show.Json = False,
) -> None:
    """Draw images from a run.

    ```
    alphabar sample bundled --n 64 --steps 25 --out garments.npz
    alphabar sample runs/garments --n 10000 --sampler ddim --steps 50 --eta 1 --seed 1 --out samples.npz
    ```

    Writes OUT.npz with `images` (n x h x w x c, of the type that the model was trained on) and the record of how they
    were made, or, when OUT ends in a slash, a folder of PNGs; and a contact sheet of the first 100 beside it. An
    interrupted command goes on where it stopped.

    Parameters
    ----------
    run
        a run folder, a .safetensors file, bundled, or diffusers:PATH, the folder of a pipeline.
    out
        PATH.npz, or a folder ending in a slash.
    n
        images.
    sampler
        a name in `alphabar samplers`; tuned, the one that `alphabar tune` fitted to this run for so many steps; tuned:NAME.
    steps
        of the sampler; each costs a network call unless a plan skips it.
    eta
        0 (deterministic) to 1 (all the noise); the sampler's own if left out.
    seed
        image k of a seed is the same whatever n and batch.
    batch
        images at a time.
    grid
        leading, trailing, linspace (integer timesteps), time, log_sigma, karras or karras_few (for 20 steps or fewer).
    plan
        which steps call the network, as "every(3, last=50)", progressive, or "adaptive(0.02)" (image by image).
    clip
        hold x0_hat within -1..1 at every step, or --no-clip; diffusers:PATH does as its scheduler says if left out.
    threshold
        dynamic thresholding of x0_hat, a share such as 0.995.
    variance
        posterior or beta, for ddpm.
    tuned
        a fitted sampler's file, in place of --sampler.
    classes
        of a class-conditional run: names or numbers of classes, which images take in turns, or all.
    guidance
        weight of classifier-free guidance; 1 is none, 2 follows the class more closely, for twice the calls.
    fast
        how the network is run: auto (what finishes soonest here, by measurement), none, or channels_last, compile, onnxruntime,
        openvino, mnn, cuda_graphs.
    precision
        bf16 multiplies in bfloat16, which changes images a little.
    checkpoint
        last or best.
    device
        cpu, cuda, mps; the best there is if left out.
    """
    from alphabar.core.machine import best_device
    from alphabar.sampling.sample import class_numbers
    from alphabar.sampling.sample import sample as draw
    from alphabar.training.checkpoint import load_model

    model = load_model(run, checkpoint)
    try:
        samples = draw(
            model,
            n,
            sampler=sampler,
            steps=steps,
            eta=eta,
            options=options,
            seed=seed,
            batch=batch,
            grid=grid,
            plan=plan,
            clip=clip,
            threshold=threshold,
            variance=variance,
            tuned=tuned,
            classes=None if classes is None else class_numbers(classes, model),
            guidance=guidance,
            guidance_interval=guidance_interval,
            fast=None if fast == "none" else fast,
            precision=precision,
            out=out,
            device=device or best_device(),
            channels_last=True,
        )
    except KeyboardInterrupt:
        print("stopped; the finished batches are kept, and the same command goes on from them", file=sys.stderr)
        raise SystemExit(130) from None
    sheet = Path(out.rstrip("/") + ".png") if out.endswith("/") else Path(out).with_suffix(".png")
    from alphabar.data.contact_sheet import contact_sheet

    contact_sheet(samples.images[:100], scale=2 if samples.images.shape[1] < 64 else 1).save(sheet)
    told = {k: v for k, v in samples.record.items() if k not in ("grid", "x0_steps")}
    show.record({**told, "sheet": str(sheet)}, as_json, str(out))
