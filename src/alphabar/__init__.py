"""alphabar: a laboratory for image diffusion models. Names are imported when they are first used, so that
`import alphabar` stays cheap."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphabar.verbs.train import train
    from alphabar.verbs.ema import choose_length
    from alphabar.data.sources import ImageSet, load
    from alphabar.evaluation.compare import compare
    from alphabar.evaluation.image_eval import ImageEval
    from alphabar.features.extractor import load_extractor
    from alphabar.features.supervised import train_extractor
    from alphabar.verbs.experiment import experiment
    from alphabar.results.experiments import read_experiment
    from alphabar.verbs.score import score
    from alphabar.training.config import Recipe, resolve
    from alphabar.sampling.sample import Samples, sample
    from alphabar.schedule.noising import add_noise, add_noise_vp
    from alphabar.schedule.vp import Cosine, Linear
    from alphabar.verbs.sweep import sweep
    from alphabar.training.checkpoint import load_model
    from alphabar.verbs.tune import tune

_WHERE = {
    "Cosine": "schedule.vp",
    "ImageEval": "evaluation.evaluate",
    "ImageSet": "data.sources",
    "Linear": "schedule.vp",
    "Recipe": "recipe",
    "Samples": "sampling.draw",
    "add_noise": "schedule.noising",
    "add_noise_vp": "schedule.noising",
    "choose_length": "averaging",
    "compare": "evaluation.compare",
    "experiment": "experimenting",
    "load": "data.sources",
    "load_extractor": "evaluation.extractor",
    "load_model": "training.checkpoint",
    "read_experiment": "hypothesis",
    "resolve": "recipe",
    "sample": "sampling.draw",
    "score": "judge",
    "sweep": "sweeping",
    "train": "api",
    "train_extractor": "evaluation.learn",
    "tune": "tuning",
}

__all__ = [
    "Cosine", "ImageEval", "ImageSet", "Linear", "Recipe", "Samples", "add_noise", "add_noise_vp", "choose_length", "compare",
    "experiment", "load",
    "load_extractor", "load_model", "read_experiment", "resolve", "sample", "score", "sweep", "train",
    "train_extractor", "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"alphabar.{_WHERE[name]}"), name)
    raise AttributeError(f"alphabar has no {name!r}: it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
