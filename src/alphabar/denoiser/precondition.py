"""From a network to a denoiser: (x, sigma) -> x0_hat in the one coordinate.

Range, schedule and prediction type are properties of the model and travel with it. EDM's preconditioning needs no separate
class: with s = sigma * data_range, prediction "v", data_range = 1 / sigma_data and the schedule LogSigma, the factors c_in,
c_skip, c_out and c_noise are those of Karras et al. 2022 (arXiv:2206.00364), table 1 (with the sign of the output reversed).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from alphabar.core.types import Images, Labels, Levels, Timesteps
from alphabar.schedule.base import Scaled, Schedule
from alphabar.schedule.noising import PREDICTIONS, add_noise, input_scale, per_image, target, to_x0

MAX_SIGMA_FOR_EPS = 1e6  # sigma multiplies the error of eps_hat in x0_hat; float32 has 7 digits


class Network(Protocol):
    """What `Preconditioned` holds: (y, t) -> output of y's shape, with y in the network's range and t in its time.

    Class-conditional networks also take labels; those trained on augmented images take (y, t, labels or None, augment).
    """

    def __call__(self, y: Images, t: Timesteps, /, *more: Tensor | None) -> Images: ...


class Preconditioned(nn.Module):
    """A denoiser made of a network that was trained on y = sqrt(alphabar) data_range x0 + sqrt(1 - alphabar) eps, or, with
    prediction "flow", on y = (1 - t) data_range x0 + t eps.

    `own_schedule` is the network's schedule. `schedule` is the same one in the one coordinate, where
    sigma = sqrt((1 - alphabar) / alphabar) / data_range.

    Args:
        network: see `Network`.
        schedule: the schedule that the network was trained with.
        prediction: what the network predicts: "eps", "x0", "v" or "flow".
        data_range: half the width of the network's input range; 0.5 means -0.5..0.5.
        image_shape: (channels, height, width) of the images.

    Raises:
        ValueError: for an unknown prediction, data_range <= 0, or "eps" with a schedule that ends in pure noise.
    """

    null_class: bool = True

    def __init__(
        self, network: nn.Module, schedule: Schedule, prediction: str, data_range: float = 1.0,
        image_shape: tuple[int, int, int] = (1, 28, 28),
    ) -> None:  # fmt: skip
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction type {prediction!r} is unknown: use one of {', '.join(PREDICTIONS)}")
        if not data_range > 0:
            wanted = "give half the width of the input range, 1.0 for -1..1, 0.5 for -0.5..0.5"
            raise ValueError(f"data_range = {data_range}: {wanted}")
        if prediction == "eps" and (schedule.zero_terminal_snr or not schedule.sigma_max <= MAX_SIGMA_FOR_EPS):
            raise ValueError(
                "prediction 'eps' with a schedule that leaves no signal at its last time (zero terminal SNR): there eps is the "
                "network's input and x0_hat = x - sigma eps_hat is 0 / 0. Use prediction 'v' (or 'x0') and train with it, or a "
                "schedule that ends earlier, such as the same one without `zero_snr`"
            )
        self.network = network
        self.own_schedule = schedule
        self.schedule = Scaled(schedule, data_range)
        self.prediction, self.data_range, self.image_shape = prediction, data_range, image_shape

    @property
    def classes(self) -> int:
        """Number of classes; 0 for an unconditional model."""
        return 0

    def no_class(self, n: int) -> Labels:
        """Labels of n images without a class. Raises ValueError for a model that was trained with classes alone."""
        if not self.null_class:
            raise ValueError(f"this model needs a class for every image: give classes (--classes all), 0 to {self.classes - 1}")
        return torch.full((n,), self.classes, dtype=torch.int64)

    def output(self, x: Images, sigma: Levels, labels: Labels | None = None, augment: Tensor | None = None) -> Images:
        """The network's own output at x = x0 + sigma * noise. Its input scale and time are computed in float64."""
        if x.ndim != 4 or x.shape[1] != self.image_shape[0] or not x.is_floating_point() or sigma.shape != x.shape[:1]:
            came = f"{x.dtype} of shape {tuple(x.shape)} with levels of shape {tuple(sigma.shape)}"
            wanted = f"(n, {', '.join(map(str, self.image_shape))}) with n levels"
            raise ValueError(f"noisy images came as {came}: wanted floats of shape {wanted}")
        s = sigma.detach().to("cpu", torch.float64) * self.data_range
        t = self.own_schedule.t(s)
        c_in = self.data_range * input_scale(self.prediction, s)
        more: list[Tensor | None] = []
        if labels is not None and labels.shape != x.shape[:1]:
            raise ValueError(f"labels of shape {tuple(labels.shape)} for {len(x)} images: give one per image")
        if labels is not None and labels.device.type == "cpu" and not 0 <= int(labels.min()) <= int(labels.max()) <= self.classes:
            raise ValueError(
                f"labels from {int(labels.min())} to {int(labels.max())}: give 0 to {self.classes} ({self.classes}: none)"
            )
        if self.classes:
            more.append(self.no_class(len(x)).to(x.device) if labels is None else labels.to(x.device))
        elif labels is not None:
            raise ValueError("this model was trained without classes: leave the labels out")
        if augment is not None:
            more = [*(more or [None]), augment.to(x)]
        return cast(Tensor, self.network(per_image(c_in, x) * x, t.to(x.device, torch.float32), *more))

    def forward(self, x: Images, sigma: Levels, labels: Labels | None = None, augment: Tensor | None = None) -> Images:
        """x0_hat = E[x0 | x]. labels: one class per image for a conditional model; None: no class."""
        r = self.data_range
        return to_x0(self.prediction, self.output(x, sigma, labels, augment), r * x, r * sigma) / r

    def loss(
        self, x0: Images, sigma: Levels, noise: Images, labels: Labels | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the network's output, one number per image (float32)."""
        out = self.output(add_noise(x0, sigma, noise), sigma, labels, augment)
        wanted = target(self.prediction, self.data_range * x0, noise, self.data_range * sigma)
        return (out.float() - wanted).square().flatten(1).mean(1)


@contextmanager
def eval_mode(model: object) -> Iterator[None]:
    """Evaluation mode (no dropout) inside the block; afterwards every module has its previous mode. Not a module: no effect."""
    if not isinstance(model, nn.Module):
        yield
        return
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True
