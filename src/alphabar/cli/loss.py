"""`alphabar loss`."""

from pathlib import Path

from alphabar.cli import show


def loss(run: str, *, trained_on: str, n: int = 1000, picture: Path | None = None, as_json: show.Json = False) -> None:
    """Denoising loss by noise level on held-out and on training images: a cheap early sign of a model that memorises.

    ```
    alphabar loss runs/garments --trained-on fashion_mnist
    alphabar loss bundled --trained-on fashion_mnist --n 500 --json
    ```

    Args:
        run: a run folder, a .safetensors file, bundled, or diffusers:PATH, the folder of a pipeline.
        trained_on: the SET that it was trained on; its held-out part is found by content.
        n: images of either kind.
        picture: the plot to write; in the run's folder, or next to its file, if left out.
    """
    from alphabar.report.figures import draw_losses
    from alphabar.verbs.loss import loss
    from alphabar.verbs.score import picture_path

    found = loss(run, trained_on, n=n)
    path = draw_losses(found, picture or picture_path(run, "loss.png"))
    if as_json:
        show.as_json_line(found.to_json())
        return
    show.table(
        ("sigma", "held out", "trained on", "gap"),
        [
            (f"{sigma:.3g}", str(heldout), str(trained), str(gap))
            for sigma, heldout, trained, gap in zip(found.sigma, found.heldout, found.train or (), found.gap or (), strict=True)
        ],
        "mean squared error of x0_hat a pixel, images in [-1, 1]",
    )
    print(f"relative gap over all levels: {found.relative_gap}")
    print(f"picture: {path}")
