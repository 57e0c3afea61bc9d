"""Feature statistics of images of one and two calls, as a second loss of consistency tuning (FD-loss, arXiv:2604.28190)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from alphabar.core import seeds
from alphabar.core.types import Images, Labels
from alphabar.data.image_set import ImageSet
from alphabar.denoiser.model import Model
from alphabar.denoiser.precondition import Preconditioned
from alphabar.features.extract import extract
from alphabar.features.load import load_extractor
from alphabar.features.stats import FeatureStats
from alphabar.fitting.frechet_loss import Embeds, FrechetLoss
from alphabar.schedule.grid import for_consistency
from alphabar.training.stream import Indices

CALLS = (1, 2)  # network calls of the images, in turns
SMALL = 0.01  # a distance below which its gradient fades
REMEMBER = 2048  # images in the statistics; more lag further behind the weights


class DrawnLikeReal:
    """The mean over extractors of d / (d + 0.01), with the gradient of the first d alone: d is the Fréchet distance between the
    features of the images that the model draws and those of real ones.

    Statistics are of the last images drawn (`FrechetLoss`), the present batch has a gradient, and of two calls the second one.

    Args:
        losses: of each number of calls in `CALLS`, a loss by each extractor.
    """

    def __init__(self, losses: Sequence[Sequence[FrechetLoss]]) -> None:
        self.losses, self.turn = losses, 0

    @staticmethod
    def of(
        extractors: Sequence[str], images: ImageSet, indices: Indices, model: Model, progress: bool = True
    ) -> "DrawnLikeReal | None":  # fmt: skip
        """Reads extractor files, and takes the features of the real images, images[indices]. None where no extractor is named.

        Raises:
            ValueError: For an extractor without gradients, one that is named twice, and a model of latents.
        """
        if not extractors:
            return None
        if images.latents is not None:
            raise ValueError("statistics of features need a model of images, and this one makes latents: leave --like out")
        loaded = [load_extractor(path) for path in extractors]
        for path, each in zip(extractors, loaded, strict=True):
            if not isinstance(each, Embeds):
                raise ValueError(f"extractor {path} has no gradients: give one of `alphabar extractor train`")
        if len({e.fingerprint for e in loaded}) < len(loaded):
            raise ValueError(f"{' '.join(extractors)} names an extractor twice: name each once")
        images = images.subset(indices)
        real = [(e, extract(images, e, progress=progress)) for e in loaded if isinstance(e, Embeds)]
        stats = [(e, FeatureStats.of(store.rows(slice(None)), e.fingerprint)) for e, store in real]
        return DrawnLikeReal([[FrechetLoss(e, s, remember=REMEMBER, crop=model.crop) for e, s in stats] for _ in CALLS])

    def __call__(self, model: Preconditioned, noise: Images, labels: Labels | None = None) -> Tensor:
        calls, losses = CALLS[self.turn], self.losses[self.turn]
        self.turn = (self.turn + 1) % len(CALLS)
        draw = 0
        while not all(each.full for each in losses):  # at the beginning
            fresh = seeds.starting_noise(draw, range(len(noise)), tuple(noise.shape[1:])).to(noise)
            with torch.no_grad():
                images = drawn(model, fresh, calls, labels)
            for each in losses:
                each.add(images)
            draw += 1
        images = drawn(model, noise, calls, labels)
        with torch.autocast(noise.device.type, enabled=False):
            distances = torch.stack([each(images.float()) for each in losses])
        return (distances / (distances.detach() + SMALL)).mean().to(noise.device)

    def distances(self) -> dict[str, float]:
        """The mean distance over extractors, by number of calls: this loss itself is 1 at any distance well above 0.01."""
        full = {calls: of for calls, of in zip(CALLS, self.losses, strict=True) if all(each.full for each in of)}
        return {f"frechet_{calls}": fmean(each.distance() for each in of) for calls, of in full.items()}

    def state(self) -> dict[str, Tensor]:
        """The features that every loss keeps, and whose turn it is."""
        kept = {f"{calls}.{k}": each.state() for calls, of in zip(CALLS, self.losses, strict=True) for k, each in enumerate(of)}
        return {name: features for name, features in kept.items() if len(features)} | {"turn": torch.tensor(self.turn)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `state` gave."""
        self.turn = int(tensors["turn"])
        for calls, of in zip(CALLS, self.losses, strict=True):
            for k, each in enumerate(of):
                if (features := tensors.get(f"{calls}.{k}")) is not None:
                    each.restore(features)


def drawn(model: Preconditioned, noise: Images, calls: int, labels: Labels | None = None) -> Images:
    """Images of a consistency model in some calls, as its sampler draws them, of which the last one has a gradient.

    Noise that is added between calls is that of the next image of the batch.
    """
    x = noise * model.schedule.sigma_max
    for k, (sigma, below) in enumerate(pairwise(for_consistency(model.schedule, calls).tolist())):
        with torch.set_grad_enabled(torch.is_grad_enabled() and k == calls - 1):
            x0: Tensor = model(x, noise.new_full((len(noise),), sigma), labels)
        x = x0 + below * noise.roll(k + 1, 0)
    return x0
