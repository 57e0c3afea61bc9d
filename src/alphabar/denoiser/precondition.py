"""From a network to a denoiser: (x, sigma) -> x0_hat in the one coordinate.

Range, schedule and prediction type are properties of the model and travel with it. EDM's preconditioning needs no
class of its own: with s = sigma * data_range, prediction "v", data_range = 1 / sigma_data and the schedule LogSigma,
c_in, c_skip, c_out and c_noise below are those of Karras et al. 2022 (arXiv:2206.00364), table 1 (with the sign of
the output turned).
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from alphabar.schedule.noising import PREDICTIONS, add_noise, per_image, target, to_x0
from alphabar.schedule.vp import Scaled, Schedule
from alphabar.types import Images, Levels, Timesteps

HIGHEST_FOR_EPS = 1e6  # sigma multiplies the error of eps_hat in x0_hat, to as much as x0 has digits in float32


class Network(Protocol):
    """What a wrapped network is: (y, t) -> output of y's shape, y in its own range, t in its own time."""

    def __call__(self, y: Images, t: Timesteps, /) -> Images: ...


class Preconditioned(nn.Module):
    """A denoiser made of a network that was trained on y = sqrt(alphabar) data_range x0 + sqrt(1 - alphabar) eps.

    schedule is the network's own; `self.schedule` is the same in the one coordinate, where
    sigma = sqrt((1 - alphabar) / alphabar) / data_range. data_range: half the width of the network's input range,
    so that 0.5 means -0.5..0.5. image_shape: (channels, height, width) of what it denoises.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: str,
        data_range: float = 1.0,
        image_shape: tuple[int, int, int] = (1, 28, 28),
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction type {prediction!r} is unknown: use one of {', '.join(PREDICTIONS)}")
        if not data_range > 0:
            raise ValueError(
                f"data_range = {data_range}: give half the width of the input range, 1.0 for -1..1, 0.5 for -0.5..0.5"
            )
        if prediction == "eps" and (schedule.zero_terminal_snr or not schedule.sigma_max <= HIGHEST_FOR_EPS):
            raise ValueError(
                "prediction 'eps' with a schedule that leaves no signal at its last time (zero terminal SNR): there eps is the "
                "network's input and x0_hat = x - sigma eps_hat is 0 / 0. Use prediction 'v' (or 'x0') and train with it, or a "
                "schedule that ends earlier, such as the same one without `zero_snr`"
            )
        self.network = network
        self.own_schedule = schedule
        self.schedule = Scaled(schedule, data_range)
        self.prediction = prediction
        self.data_range = data_range
        self.image_shape = image_shape

    def output(self, x: Images, sigma: Levels) -> Images:
        """The bare network's output at x = x0 + sigma * noise, its input and its time worked out in float64."""
        s = sigma.detach().to("cpu", torch.float64) * self.data_range
        t = self.own_schedule.t(s)
        c_in = self.data_range / (1 + s**2).sqrt()
        out: Tensor = self.network(per_image(c_in, x) * x, t.to(x.device, torch.float32))
        return out

    def forward(self, x: Images, sigma: Levels) -> Images:
        r = self.data_range
        return to_x0(self.prediction, self.output(x, sigma), r * x, r * sigma) / r

    def loss(self, x0: Images, sigma: Levels, noise: Images) -> Tensor:
        """Mean squared error of the network's output, one number an image (float32)."""
        out = self.output(add_noise(x0, sigma, noise), sigma)
        wanted = target(self.prediction, self.data_range * x0, noise, self.data_range * sigma)
        return (out.float() - wanted).square().flatten(1).mean(1)
