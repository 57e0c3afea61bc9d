"""Any run as a denoiser of deepinv, for its algorithms of inverse problems (needs the extra deepinv)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alphabar.core.types import Images
from alphabar.denoiser.wrappers import Labelled
from alphabar.sampling.guidance import class_numbers, every_class
from alphabar.sampling.model import Model, check_denoises_pixels, cropped
from alphabar.training.checkpoint import load_model


def deepinv_denoiser(model: Model | str | Path, classes: int | str | None = None) -> Any:
    """The model as a `deepinv.models.Denoiser`: forward(x, sigma), images in [0, 1], channels first, and sigma in their units.

    With y = 2 x - 1, which is in [-1, 1], noise of level sigma is of level 2 sigma, and the result is (E[y0 | y] + 1) / 2. It can
    be differentiated, and takes one sigma, one for each image, or a list. Of a padded model the border is filled with black.

    Args:
        model: a model, or what `load_model` takes; not a distilled one, nor one of latents.
        classes: one class, by name or number, for a class-conditional model.

    Raises:
        ImportError: where deepinv, or what it imports, cannot be imported.
        ValueError: for a distilled model, a model of latents, several classes, and a model that needs a class without one.

    Calls raise ValueError for images of another number of channels or another size than the model's.
    """
    model = load_model(model) if isinstance(model, str | Path) else model
    check_denoises_pixels(model, "a denoiser of deepinv")
    numbers = None if classes is None else class_numbers(classes, model)
    if numbers is not None and len(numbers) != 1:
        raise ValueError(f"classes = {classes!r}: give one class, which all images have")
    known: Any = model
    if numbers is None and every_class(model) and not getattr(model, "null_class", True):
        known.no_class(1)  # raises, with what to type
    return _class()(model, None if numbers is None else numbers[0])


def _class() -> Any:
    """The class, made where deepinv can be imported."""
    try:
        from deepinv.models.base import Denoiser as Base
    except Exception as e:  # torchvision may fail to load in many ways
        raise ImportError(f"deepinv cannot be imported ({type(e).__name__}: {e}): pip install 'alphabar[deepinv]'") from e

    class DeepinvDenoiser(Base):  # type: ignore[misc]
        def __init__(self, model: Model, label: int | None) -> None:
            super().__init__()
            self.model, self.label, self.crop = model, label, int(getattr(model, "crop", 0))

        def forward(self, x: Images, sigma: float | list[float] | Tensor, **_: Any) -> Images:
            c, h, w = self.model.image_shape
            wanted = (c, h - 2 * self.crop, w - 2 * self.crop)
            if tuple(x.shape[1:]) != wanted:
                raise ValueError(f"images of shape {tuple(x.shape[1:])}, and the model takes {wanted} (channels, height, width)")
            levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).flatten()
            if len(levels) not in (1, len(x)):
                raise ValueError(f"{len(levels)} levels for {len(x)} images: give one, or one per image")
            y = F.pad(2 * x - 1, [self.crop] * 4, value=-1.0)
            denoise: Any = self.model
            if self.label is not None:
                denoise = Labelled(denoise, torch.full((len(x),), self.label, device=x.device))
            return (cropped(denoise(y, 2 * levels.expand(len(x))), self.crop) + 1) / 2

    return DeepinvDenoiser
