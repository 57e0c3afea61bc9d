"""DDPM (Ho et al. 2020, arXiv:2006.11239), algorithm 2, on any grid.

The mean of a step is that of the posterior q(x_{t-1} | x_t, x0), eq. 7, with x0_hat for x0. Its variance is one of two
(sec. 3.2). In the paper's coordinate, for a step from alphabar to alphabar' and beta = 1 - alphabar / alphabar' (on the full
grid this is beta_t), they are

    posterior   beta~ = (1 - alphabar') / (1 - alphabar) * beta         (eq. 7)
    beta        beta

The input of the network is y = sqrt(alphabar) r x with r = data_range and alphabar = 1 / (1 + r^2 s^2), so a variance in y at
the new level is divided by alphabar' r^2. With alphabar / alphabar' = (1 + r^2 s'^2) / (1 + r^2 s^2),

    beta = r^2 (s^2 - s'^2) / (1 + r^2 s^2)                             (a)
    in x:  beta        (s^2 - s'^2) (1 + r^2 s'^2) / (1 + r^2 s^2)      (b)
           posterior   s'^2 / s^2 (s^2 - s'^2)                          (c)

(c), which is (b) times (1 - alphabar') / (1 - alphabar), does not depend on r; (b) does, so the sampler needs r. The mean in x
is x0_hat + s'^2 / s^2 (x - x0_hat) for both: with (c) the noise after a step has variance s'^2, as in DDIM at eta = 1, and
with (b) a little more.
"""

from itertools import pairwise
from typing import Literal, get_args

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_choice, check_noise
from alphabar.schedule.grid import check_grid

Variance = Literal["posterior", "beta"]


@torch.no_grad()
def ddpm(
    denoise: Denoiser, x: Images, sigmas: Grid, *, variance: str = "posterior", data_range: float = 1.0,
    noise: Noise | None = None, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """Algorithm 2. n + 1 levels cost n network calls.

    Args:
        denoise, x, sigmas, noise, on_step: as in `ddim`; noise is needed, and drawn at every step but the last.
        variance: posterior (c) or beta (b), see above.
        data_range: half the width of the network's input range; only used for beta.

    Returns:
        Images of level 0.

    Raises:
        ValueError: for a bad grid, an unknown variance, and missing noise.
    """
    check_grid(sigmas)
    check_choice("variance", variance, get_args(Variance))
    check_noise(noise, "ddpm adds noise at every step")
    r2 = data_range**2
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        x = torch.lerp(x0_hat, x, s_next**2 / s**2)
        if noise is not None and s_next > 0:
            share = s_next**2 / s**2 if variance == "posterior" else (1 + r2 * s_next**2) / (1 + r2 * s**2)
            x.add_(noise(i, x), alpha=(share * (s**2 - s_next**2)) ** 0.5)
    return x
