"""The command `alphabar distill`."""

from pathlib import Path

from alphabar.cli import show
from alphabar.cli.options import Flag, Flat
from alphabar.core.bounds import Positive
from alphabar.core.messages import command
from alphabar.verbs.options import DistillOptions


def distill(
    run: str, *, options: Flat[DistillOptions] = DistillOptions(), minutes: Positive | None = None, out: Path | None = None,
    resume: Flag = False,
) -> None:  # fmt: skip
    """Tune a trained model so that one or two network calls give an image (consistency tuning); the result is a new run.

    ```
    alphabar distill runs/garments
    alphabar sample runs/garments --sampler distilled --steps 2 --n 64
    ```

    Takes a fraction of the training's time; previews appear on the way. Ctrl-C stops with a checkpoint, and the same command
    with --resume continues from it.

    Args:
        run: a run folder, bundled, or, with --like, also bundled/distilled.
        minutes: length of the tuning on this machine, in place of --images.
        out: the folder of the new run; distilled/ in the run if left out.
        resume: continue from the last checkpoint.
    """
    from alphabar.core.run import DISTILLED
    from alphabar.verbs.distill import distill

    again = command("alphabar", "distill", run, *([] if out is None else ["--out", out]), "--resume")
    with show.stopped_by_ctrl_c("{}\ncontinue with: " + again):
        distill(run, out, options=options, resume=resume, minutes=minutes)
    drawn = [run, "--sampler", DISTILLED] if out is None else [out]
    show.hint("sample", *drawn, "--steps", options.calls, "--out", "few_calls.npz")
