"""DDPM (Ho et al. 2020, arXiv:2006.11239), algorithm 2, on any grid.

The mean of a step is that of the posterior q(x_{t-1} | x_t, x0), eq. 7, with x0_hat for x0. Its variance is one of
two (sec. 3.2). In the paper's coordinate, for a step from alphabar to alphabar' and beta = 1 - alphabar / alphabar'
(on the full grid this is beta_t):

    posterior   beta~ = (1 - alphabar') / (1 - alphabar) * beta         (eq. 7)
    beta        beta

The network sees y = sqrt(alphabar) r x with r = data_range and alphabar = 1 / (1 + r^2 s^2), so a variance in y at
the new level is divided by alphabar' r^2. With alphabar / alphabar' = (1 + r^2 s'^2) / (1 + r^2 s^2),

    beta = r^2 (s^2 - s'^2) / (1 + r^2 s^2)                             (a)
    in x:  beta        (s^2 - s'^2) (1 + r^2 s'^2) / (1 + r^2 s^2)      (b)
           posterior   s'^2 / s^2 (s^2 - s'^2)                          (c)

(c), which is (b) times (1 - alphabar') / (1 - alphabar), is free of r; (b) is not, so the sampler is told r.
The mean in x is x0_hat + s'^2 / s^2 (x - x0_hat) for both: with (c) a step leaves noise of variance s'^2, as DDIM
does at eta = 1, and with (b) a little more.
"""

from itertools import pairwise
from typing import Literal, get_args

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.schedule.grid import check_grid

Variance = Literal["posterior", "beta"]
VARIANCES: tuple[str, ...] = get_args(Variance)


@torch.no_grad()
def ddpm(
    denoise: Denoiser,
    x: Images,
    sigmas: Grid,
    *,
    variance: str = "posterior",
    data_range: float = 1.0,
    noise: Noise | None = None,
    on_step: OnStep | None = None,
) -> Images:
    """Images from the noise x of level sigmas[0]. n + 1 levels cost n calls of `denoise`.

    variance: "posterior" or "beta", see above. data_range: half the width of the network's input range, used by
    "beta" alone. noise: needed, drawn at every step but the last. on_step: told (step, sigma, x, x0_hat) once a step,
    before x moves on. Raises ValueError for a bad grid, an unknown variance, and where noise is missing.
    """
    check_grid(sigmas)
    if variance not in VARIANCES:
        raise ValueError(f"variance {variance!r} is unknown: use one of {', '.join(VARIANCES)}")
    if noise is None:
        raise ValueError("ddpm adds noise at every step: pass noise=SeededNoise(seed, indices)")
    r2 = data_range**2
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):  # Python floats: the coefficients are float64
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        x = torch.lerp(x0_hat, x, s_next**2 / s**2)
        if s_next > 0:
            share = s_next**2 / s**2 if variance == "posterior" else (1 + r2 * s_next**2) / (1 + r2 * s**2)
            x.add_(noise(i, x), alpha=(share * (s**2 - s_next**2)) ** 0.5)
    return x
