"""alphabar: a laboratory for image diffusion models. Names are imported when they are first used, so that
`import alphabar` stays cheap."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphabar.data.image_set import ImageSet, load
    from alphabar.denoiser.own_networks import register_network
    from alphabar.evaluation.compare import compare
    from alphabar.evaluation.image_eval import ImageEval
    from alphabar.evaluation.likelihood import Likelihood
    from alphabar.features.load import load_extractor
    from alphabar.features.train import train_extractor
    from alphabar.results.experiments import read_experiment
    from alphabar.sampling.interpolate import interpolate
    from alphabar.sampling.invert import Inversion, invert
    from alphabar.sampling.sample import sample
    from alphabar.sampling.samples import Samples
    from alphabar.sampling.to_deepinv import deepinv_denoiser
    from alphabar.sampling.vary import vary
    from alphabar.schedule.betas import Linear
    from alphabar.schedule.continuous import Cosine
    from alphabar.schedule.noising import add_noise, add_noise_vp
    from alphabar.training.auto import auto_recipe
    from alphabar.training.checkpoint import load_model
    from alphabar.training.config import Recipe, resolve
    from alphabar.training.loss import register_weighting
    from alphabar.verbs.anomaly import Anomaly, anomaly
    from alphabar.verbs.ema import choose_length
    from alphabar.verbs.experiment import experiment
    from alphabar.verbs.export import export
    from alphabar.verbs.likelihood import likelihood
    from alphabar.verbs.push import push
    from alphabar.verbs.restore import restore
    from alphabar.verbs.score import score
    from alphabar.verbs.sweep import sweep
    from alphabar.verbs.train_images import train
    from alphabar.verbs.tune import tune

_WHERE = {
    "Anomaly": "verbs.anomaly",
    "Cosine": "schedule.continuous",
    "ImageEval": "evaluation.image_eval",
    "ImageSet": "data.image_set",
    "Inversion": "sampling.invert",
    "Likelihood": "evaluation.likelihood",
    "Linear": "schedule.betas",
    "Recipe": "training.config",
    "Samples": "sampling.samples",
    "add_noise": "schedule.noising",
    "add_noise_vp": "schedule.noising",
    "anomaly": "verbs.anomaly",
    "auto_recipe": "training.auto",
    "choose_length": "verbs.ema",
    "compare": "evaluation.compare",
    "deepinv_denoiser": "sampling.to_deepinv",
    "experiment": "verbs.experiment",
    "export": "verbs.export",
    "interpolate": "sampling.interpolate",
    "invert": "sampling.invert",
    "likelihood": "verbs.likelihood",
    "load": "data.image_set",
    "load_extractor": "features.load",
    "load_model": "training.checkpoint",
    "push": "verbs.push",
    "read_experiment": "results.experiments",
    "register_network": "denoiser.own_networks",
    "register_weighting": "training.loss",
    "resolve": "training.config",
    "restore": "verbs.restore",
    "sample": "sampling.sample",
    "score": "verbs.score",
    "sweep": "verbs.sweep",
    "train": "verbs.train_images",
    "train_extractor": "features.train",
    "tune": "verbs.tune",
    "vary": "sampling.vary",
}

__all__ = [
    "Anomaly", "Cosine", "ImageEval", "ImageSet", "Inversion", "Likelihood", "Linear", "Recipe", "Samples", "add_noise",
    "add_noise_vp", "anomaly", "auto_recipe", "choose_length", "compare", "deepinv_denoiser", "experiment", "export",
    "interpolate", "invert", "likelihood", "load", "load_extractor", "load_model", "push", "read_experiment", "register_network",
    "register_weighting", "resolve", "restore", "sample", "score", "sweep", "train", "train_extractor", "tune", "vary",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"alphabar.{_WHERE[name]}"), name)
    raise AttributeError(f"alphabar has no {name!r}: it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__]  # the interface only
