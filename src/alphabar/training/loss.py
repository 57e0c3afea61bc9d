"""The loss of a batch, and its weighting by noise level."""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from alphabar.core import seeds
from alphabar.core.suggest import did_you_mean
from alphabar.core.types import Images, Labels, Levels, Pixels
from alphabar.data.images import to_model
from alphabar.denoiser.own_networks import register
from alphabar.denoiser.precondition import Preconditioned
from alphabar.schedule.noising import snr
from alphabar.training.targets import StableTargets

BUILT_IN = ("plain", "min_snr", "soft_min_snr")
WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {}


def register_weighting(name: str, function: Callable[[Tensor], Tensor]) -> None:
    """Makes a weighting of the loss of yours known as `train.weighting = name`; the recipe holds the name.

    Args:
        name: a word, such as "edm".
        function: sigma (n,), noise levels of x = x0 + sigma * noise, images in [-1, 1] -> weight (n,) of the mean squared error
            of x0_hat at that level, which is converted to the error of what the network predicts.

    Raises:
        ValueError: for a name that is no word, or that alphabar uses.
    """
    register(WEIGHTINGS, "weighting", name, function, BUILT_IN)


def weight(kind: str, prediction: str, snr_value: Tensor, gamma: float = 5.0, data_range: float = 1.0) -> Tensor:
    """Weight of the squared error of the network's output, one per image.

    An error in another output than x0 is weighted as the error in x0 that it causes, which is larger by the factor sigma^2 for
    eps, sigma^2 / (1 + sigma^2) for v and (sigma / (1 + sigma))^2 for flow.

    plain: 1. min_snr: min(snr, gamma) for x0 (Hang et al. 2023, arXiv:2303.09556, sec. 3.4). soft_min_snr: snr gamma /
    (snr + gamma) = 1 / (sigma^2 + 1 / gamma) for x0 (Crowson et al. 2024, arXiv:2401.11605, sec. 4.5). A registered one: its
    function of sigma / data_range for x0.

    >>> weight("min_snr", "x0", torch.tensor([1.0, 100.0]), gamma=5.0)
    tensor([1., 5.])
    """
    if kind == "plain":
        return torch.ones_like(snr_value)
    check_weighting(kind)
    if kind in WEIGHTINGS:
        for_x0 = WEIGHTINGS[kind](snr_value.rsqrt() / data_range)
        if not isinstance(for_x0, Tensor) or for_x0.shape != snr_value.shape:
            came = tuple(getattr(for_x0, "shape", ())) or type(for_x0).__name__
            raise ValueError(f"the weighting {kind!r} gave {came} for {len(snr_value)} levels: return one weight per level")
    else:
        for_x0 = snr_value.clamp(max=gamma) if kind == "min_snr" else snr_value * gamma / (snr_value + gamma)
    scale = {
        "x0": torch.ones_like(snr_value), "v": 1 / (snr_value + 1), "eps": 1 / snr_value.clamp(min=1e-30),
        "flow": 1 / (1 + snr_value.sqrt()) ** 2,
    }[prediction]  # fmt: skip
    return for_x0 * scale


def check_weighting(kind: str) -> None:
    """Raises ValueError, with what to type, for a weighting that is unknown."""
    if kind not in (known := [*BUILT_IN, *WEIGHTINGS]):
        raise ValueError(
            f"the loss weighting {kind!r:.60} is not registered: {did_you_mean(kind, known)}, or call "
            f"alphabar.register_weighting({kind!r:.60}, function) before"
        )


class LossModule(nn.Module):
    """The weighted loss, averaged over a batch, as a module that accelerate can wrap for processes and mixed precision."""

    def __init__(
        self, model: Preconditioned, weighting: str = "plain", gamma: float = 5.0, targets: StableTargets | None = None
    ) -> None:
        super().__init__()
        check_weighting(weighting)
        self.model, self.weighting, self.gamma, self.targets = model, weighting, gamma, targets

    def forward(
        self, x0: Images, sigma: Levels, noise: Images, labels: Labels | None = None, augment: Tensor | None = None
    ) -> Tensor:
        if self.targets is not None:
            x0, noise = self.targets(x0, sigma, noise, labels, augment)
        errors = self.model.loss(x0, sigma, noise, labels, augment)
        w = weight(self.weighting, self.model.prediction, snr(sigma * self.model.data_range), self.gamma, self.model.data_range)
        return (w.to(errors) * errors).mean()


@torch.inference_mode()
def image_losses(
    loss: Callable[..., Tensor], pixels: Pixels, sigma: Float64[Tensor, " n"], seed: int, *, draw: int = 0, batch: int = 128,
    device: torch.device | str | None = None, labels: Labels | None = None,
) -> Float64[Tensor, " n"]:  # fmt: skip
    """The loss of every image, on noise that is a function of (seed, number of the image, draw).

    Args:
        loss: called as loss(x0, sigma, noise), or loss(x0, sigma, noise, labels); returns one value per image.
        pixels: n images (n, h, w, c) as stored, padded as in training.
        sigma: noise level of each image.
        draw: another one gives other noise.
        batch: images at a time.
        device: None is the CPU.
        labels: classes (n,) for a conditional model.
    """
    out = []
    for start in range(0, len(pixels), batch):
        rows = slice(start, min(start + batch, len(pixels)))
        x0 = to_model(pixels[rows], device)
        noise = seeds.SeededNoise(seed, range(start, rows.stop), stream=seeds.HELDOUT)(draw, x0)
        out.append(loss(x0, sigma[rows].to(x0), noise, *(() if labels is None else (labels[rows],))).cpu())
    return torch.cat(out).double()
