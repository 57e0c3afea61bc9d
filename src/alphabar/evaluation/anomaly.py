"""How unusual an image is to a diffusion model: scores from its denoising loss by noise level, against those of usual images.

Likelihood is no such score (Nalisnick et al. 2019, arXiv:1810.09136): images with less detail need fewer bits, blurred ones among
them. A score that works compares the losses of an image at all levels with those of usual images, up and down: the density of
statistics (Morningstar et al. 2021, arXiv:2006.09273), here the Gaussian of the logarithms of the losses.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

AnomalyScore = Literal["levels", "middle", "all"]
SHRINKAGE = 0.3  # of the correlations of levels towards 0: without it other kinds of images are found less often
MIDDLE = (0.3, 3.0)  # sigma; where the noise leaves the large shapes of an image


def anomaly_scores(
    losses: Float64[Tensor, "levels n"], usual: Float64[Tensor, "levels m"], sigmas: Float64[Tensor, " levels"],
    kind: AnomalyScore = "levels",
) -> Float64[Tensor, " n"]:  # fmt: skip
    """One score an image; higher is more unusual.

    Args:
        losses: of the images, as `losses_by_level` measures them.
        usual: of usual images that the model was not trained on, at the same levels; at least twice as many as levels.
        sigmas: the levels.
        kind: levels: the Mahalanobis distance of the logarithms of the losses from those of usual images. middle: the mean of
            the logarithms over the levels 0.3 to 3. all: the mean over all levels of the loss / sigma^2, to which the
            variational bound of the likelihood is proportional.

    Raises:
        ValueError: for another kind, and for too few usual images.
    """
    if kind not in get_args(AnomalyScore):
        raise ValueError(f"score {kind!r:.60}: use one of {', '.join(get_args(AnomalyScore))}")
    if kind == "all":
        return (losses / sigmas[:, None] ** 2).mean(0)
    own, theirs = (values.clamp_min(1e-12).log() for values in (losses, usual))
    if kind == "middle":
        chosen = (sigmas >= MIDDLE[0]) & (sigmas <= MIDDLE[1])
        return own[chosen].mean(0)
    k, m = theirs.shape
    if m < 2 * k:
        raise ValueError(f"{m} usual images for {k} levels: give at least {2 * k}, a few hundred as a rule")
    mean, std = theirs.mean(1, keepdim=True), theirs.std(1, keepdim=True).clamp_min(1e-12)
    spread = (1 - SHRINKAGE) * torch.cov((theirs - mean) / std) + SHRINKAGE * torch.eye(k, dtype=theirs.dtype)
    off = (own - mean) / std
    distance: Tensor = (off * torch.linalg.solve(spread, off)).sum(0).sqrt()
    return distance
