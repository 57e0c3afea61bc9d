"""Adding noise, and the four prediction types eps, x0, v and flow, each a linear function of any other and x.

In the one coordinate x = x0 + sigma eps. The input of a variance-preserving network is y = sqrt(alphabar) x =
x / sqrt(1 + sigma^2); that of flow matching is y = (1 - t) x0 + t eps = x / (1 + sigma), with t = sigma / (1 + sigma).
All is computed in float32 or better: in bfloat16 sqrt(1 - alphabar) of the first timesteps rounds to 0.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from alphabar.core.types import Images, Levels, Times
from alphabar.schedule.base import Schedule

Prediction = Literal["eps", "x0", "v", "flow"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)


def per_image(value: Tensor, x: Images) -> Tensor:
    """(b,) -> (b, 1, 1, 1) on x's device in x's type, so that one number per image multiplies its pixels."""
    return value.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def alphabar_of(sigma: Tensor) -> Tensor:
    """alphabar = 1 / (1 + sigma^2)."""
    return 1 / (1 + sigma**2)


def sigma_of(alphabar: Tensor) -> Tensor:
    """sigma = sqrt((1 - alphabar) / alphabar)."""
    return ((1 - alphabar) / alphabar).sqrt()


def snr(sigma: Tensor) -> Tensor:
    """Signal-to-noise ratio alphabar / (1 - alphabar) = 1 / sigma^2."""
    return sigma**-2


def input_scale(kind: str, sigma: Tensor) -> Tensor:
    """The factor that turns x into the network input (data of scale 1): 1 / (1 + sigma) for flow, else 1 / sqrt(1 + sigma^2)."""
    _check(kind)
    return 1 / (1 + sigma) if kind == "flow" else 1 / (1 + sigma**2).sqrt()


def add_noise(x0: Images, sigma: Levels, noise: Images) -> Images:
    """x = x0 + sigma * noise. Half-precision images are converted to float32 first.

    Args:
        x0: clean images (b, c, h, w) in [-1, 1].
        sigma: one level per image (b,).
        noise: standard normal, of the shape of x0.

    >>> add_noise(torch.zeros(1, 1, 1, 2), torch.tensor([3.0]), torch.ones(1, 1, 1, 2)).tolist()
    [[[[3.0, 3.0]]]]
    """
    x0 = _full(x0)
    return x0 + per_image(sigma, x0) * noise.to(x0.dtype)


def add_noise_vp(y0: Images, t: Times, noise: Images, schedule: Schedule) -> Images:
    """y = sqrt(alphabar(t)) y0 + sqrt(1 - alphabar(t)) noise: q(x_t | x_0) of DDPM (Ho et al. 2020, eq. 4).

    Args:
        y0: clean images (b, c, h, w) in the network's range (data_range times images in [-1, 1]).
        t: one time per image (b,).
        noise: standard normal, of the shape of y0.
        schedule: gives alphabar(t).
    """
    y0 = _full(y0)
    ab = schedule.alphabar(t.to("cpu", torch.float64))
    return per_image(ab.sqrt(), y0) * y0 + per_image((1 - ab).sqrt(), y0) * noise.to(y0.dtype)


def to_x0(kind: str, output: Images, x: Images, sigma: Levels) -> Images:
    """x0_hat from a network's output, for x = x0 + sigma eps and data of scale 1.

    Args:
        kind: the prediction type. eps: x0 = x - sigma eps. x0: the output itself. v (Salimans & Ho 2022, arXiv:2202.00512,
            app. D): v = sqrt(alphabar) eps - sqrt(1 - alphabar) x0, so x0 = sqrt(alphabar) y - sqrt(1 - alphabar) v.
            flow: the velocity u = eps - x0 of y = (1 - t) x0 + t eps (Lipman et al. 2023, arXiv:2210.02747, eq. 23 with
            sigma_min = 0 and time reversed; Liu et al. 2023, arXiv:2209.03003, eq. 1), so x0 = (x - sigma u) / (1 + sigma).
        output: of the network.
        x: noisy images in the one coordinate.
        sigma: one level per image (b,).
    """
    _check(kind)
    x, output = _full(x), _full(output)
    s = per_image(sigma, x)
    if kind == "eps":
        return x - s * output
    if kind == "x0":
        return output
    if kind == "flow":
        return (x - s * output) / (1 + s)
    ab = alphabar_of(s)
    return ab * x - (1 - ab).sqrt() * output


def target(kind: str, x0: Images, noise: Images, sigma: Levels) -> Images:
    """The training target of the network at x = x0 + sigma * noise: the inverse of `to_x0`."""
    _check(kind)
    if kind == "eps":
        return noise
    if kind == "x0":
        return x0
    if kind == "flow":
        return noise - x0
    ab = alphabar_of(per_image(sigma, x0))
    return ab.sqrt() * noise - (1 - ab).sqrt() * x0


def eps_of(x: Images, x0_hat: Images, sigma: Levels) -> Images:
    """eps_hat = (x - x0_hat) / sigma, for sigma > 0."""
    return (x - x0_hat) / per_image(sigma, x)


def _check(kind: str) -> None:
    if kind not in PREDICTIONS:
        raise ValueError(f"prediction type {kind!r} is unknown: use one of {', '.join(PREDICTIONS)}")


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
