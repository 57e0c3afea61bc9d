"""Classes and classifier-free guidance of a class-conditional model."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alphabar.core.suggest import did_you_mean
from alphabar.core.types import Denoiser
from alphabar.denoiser.wrappers import CountCalls, Guided, Labelled
from alphabar.sampling.model import Model
from alphabar.sampling.options import SampleOptions


def every_class(model: object) -> range | None:
    """The numbers of all classes of a conditional model; None for any other model."""
    known = int(getattr(model, "classes", 0))
    return range(known) if known else None


def class_numbers(classes: int | str | Sequence[int | str], model: object) -> list[int]:
    """Numbers of classes that are given by number or name, or of all classes for "all".

    Raises:
        ValueError: for a model without classes, for a class that the model does not know, and for none.
    """
    known = int(getattr(model, "classes", 0))
    if not known:
        raise ValueError("this model was trained without classes: leave them out, or train one with --model.conditional")
    names = [str(name) for name in getattr(model, "class_names", ())]
    single = isinstance(classes, str) or not hasattr(classes, "__iter__") or getattr(classes, "ndim", 1) == 0
    words = [classes] if single else list(classes)  # type: ignore[arg-type]
    if words == ["all"]:
        return list(range(known))
    numbers = [_class_number(word, names, known) for word in words]
    if not numbers or min(numbers) < 0 or max(numbers) >= known:
        raise ValueError(f"classes = {numbers}: give numbers from 0 to {known - 1}, the classes of this model")
    return numbers


def _class_number(word: Any, names: Sequence[str], known: int) -> int:
    """The number of a class that is given by its name or number. Where classes are called by numbers, a text is a name."""
    if not isinstance(word, str):
        if isinstance(word, bool) or not hasattr(word, "__index__"):
            raise ValueError(f"class {word!r:.60}: give the name of a class, or a whole number from 0 to {known - 1}")
        return operator.index(word)
    if word in names:
        return names.index(word)
    if word.isdecimal() and len(word) < 9 and int(word) < known and not any(name.isdecimal() for name in names):
        return int(word)
    raise ValueError(f"class {word!r} is unknown to this model: {did_you_mean(word, names, 0.3)}")


@dataclass(frozen=True)
class ClassGuidance:
    """The classes that the images take in turns, and the guidance towards them.

    Attributes:
        classes: their numbers; image k of the seed gets classes[k % len(classes)].
        no_class: the label that stands for no class.
        weight: of the guidance; 1 is none.
        interval: lowest and highest level at which guidance acts.
    """

    classes: tuple[int, ...]
    no_class: int
    weight: float
    interval: tuple[float, float]

    @staticmethod
    def of(model: Model, options: SampleOptions) -> "ClassGuidance | None":
        """What the options ask of the model; None if no class was given. Raises ValueError for what the model cannot do."""
        null = getattr(model, "null_class", True)
        if options.classes is None:
            if not null:
                model.no_class(1)  # type: ignore[attr-defined]  # raises, with what to type
            if options.guidance is not None or options.guidance_interval is not None:
                raise ValueError("guidance leads towards a class: say which, classes=3, or classes=range(10) for all in turns")
            return None
        numbers = class_numbers(options.classes, model)
        weight = 1.0 if options.guidance is None else float(options.guidance)
        if weight != 1 and not null:
            raise ValueError(f"guidance {weight:g} needs a label that stands for no class, and this model has none: leave it out")
        low, high = options.guidance_interval or (0.0, math.inf)
        Guided(model, model, weight, (low, high))  # checks the weight and the interval
        return ClassGuidance(tuple(numbers), int(getattr(model, "classes", 0)), weight, (float(low), float(high)))

    def record(self) -> dict[str, Any]:
        """Plain data for the record of samples."""
        interval = None if self.interval == (0.0, math.inf) else list(self.interval)
        return {"classes": [*self.classes], "guidance": self.weight, "guidance_interval": interval}

    def denoiser(self, count: CountCalls, indices: Sequence[int], device: torch.device) -> Denoiser:
        """The denoiser of a batch of the images with these indices."""
        labels = torch.tensor([self.classes[k % len(self.classes)] for k in indices], device=device)
        strong = Labelled(count, labels)
        if self.weight == 1:
            return strong
        return Guided(strong, Labelled(count, torch.full_like(labels, self.no_class)), self.weight, self.interval)
