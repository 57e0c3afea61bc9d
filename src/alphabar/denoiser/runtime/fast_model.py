"""The fast path of sampling: the same network, run by the method that is fastest on this machine.

    fast = speed_up(model, batch=64)           # a denoiser like `model`; measures, and stores the timings
    fast.method, fast.milliseconds             # "compile", {"eager": 0.91, "channels_last": 0.82, "compile": 0.68, ...}

eager and channels_last are plain PyTorch in either memory layout of the convolutions. compile is TorchInductor with frozen
weights. onnxruntime, openvino and mnn run an ONNX export on the CPU (`pip install 'alphabar[fast]'`). cuda_graphs replays the
kernel launches of one batch on a GPU. Each sums in a different order, so x0_hat differs in its last digits (about 1e-6).
"""

import copy
import os
import time
from typing import Any, cast

import torch
from torch import Tensor, nn

from alphabar.core.suggest import did_you_mean
from alphabar.core.types import Denoiser, Images, Labels, Levels
from alphabar.data.cache import cache_folder
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.runtime.choose import Choice, TimingFile
from alphabar.denoiser.runtime.job import Job, Run
from alphabar.denoiser.runtime.methods import METHODS, prepare, unavailable

PRECISIONS = ("float32", "bf16")


class FastModel:
    """A model whose network is run by another method. Other attributes (schedule, image_shape, crop, ...) are the model's.

    The fingerprint is that of the weights at the time of making; later training of the model does not change this copy.

    Attributes:
        method: how the network is run.
        precision: "float32" or "bf16".
        batch: the batch size it was made for; it takes any number of images.
        deviation: largest difference of the network's output from the original's, as checked once.
        prepare_seconds: time that making it took.
        milliseconds: per image and call, for each method that was timed (by "auto").
        failed: why other methods could not be used.
    """

    def __init__(self, job: Job, method: str, choice: Choice | None = None) -> None:
        self.model, self.device = job.model, job.device
        self.method, self.precision, self.batch = method, job.precision, job.batch
        self.deviation = job.prepared[method].deviation
        self.prepare_seconds = 0.0
        self.milliseconds = {m: 1e3 * v.seconds for m, v in choice.timings.items()} if choice else {}
        self.failed = dict(choice.failed) if choice else {}
        own = getattr(job.model, "fingerprint", None)
        self.fingerprint: str | None = None if own is None else str(own() if callable(own) else own)
        # A shallow copy of the model that holds another network does the arithmetic around it.
        self._denoise = copy.copy(job.model)
        self._denoise._modules = {**job.model._modules, "network": _Network(job.prepared[method].run)}

    @torch.no_grad()
    def __call__(self, x: Images, sigma: Levels, labels: Labels | None = None) -> Images:
        return cast(Tensor, self._denoise(x, sigma, labels))

    @property
    def network(self) -> nn.Module:
        """The network in the chosen runtime: (y, t) -> output."""
        return self._denoise.network

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "model" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["model"], name)

    def record(self) -> dict[str, Any]:
        """How it runs, as plain data for the record of samples."""
        return {k: getattr(self, k) for k in ("method", "precision", "deviation", "prepare_seconds")}

    def __repr__(self) -> str:
        return f"FastModel({self.method}, {self.precision}, batch {self.batch}, {self.device})"


class _Network(nn.Module):
    """A prepared network as a module, which a model must hold."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, y: Images, t: Tensor, *more: Tensor) -> Images:
        return self.run(y, t, *more)


def speed_up(
    model: Denoiser | FastModel, method: str = "auto", *, batch: int, device: torch.device | str | None = None,
    precision: str = "float32", work: int | None = None, cache: str | os.PathLike[str] | None = None,
) -> FastModel:  # fmt: skip
    """A copy of `model` whose network is run by `method`, for batches of `batch` images. The model is not changed.

    Args:
        model: a model with a network.
        method: one of METHODS, or "auto": the one that is measured to finish soonest, its preparation included.
        batch: images per batch.
        device: None: the model's device. Another one is refused.
        precision: "float32", or "bf16", which multiplies in bfloat16. That changes images (by up to 0.1 in [-1, 1] in our
            measurements) and is faster only on processors with bfloat16 products; "auto" never chooses it.
        work: images times network calls that are to come; "auto" tries a method only where it can save more time than trying it
            takes. None: unlimited.
        cache: the folder of the timings; None: $ALPHABAR_CACHE or ~/.cache/alphabar.

    Raises:
        ValueError: for unknown names, a denoiser without a network, or a method that cannot run on this device.
        ImportError: if a package is missing.
        RuntimeError: if a method fails here, or its output deviates from the network's.
    """
    started = time.perf_counter()
    if isinstance(model, FastModel):
        model = model.model
    if not isinstance(model, Preconditioned):
        raise ValueError(f"{type(model).__name__} has no network that could be run by another method: leave `fast` out")
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    if method != "auto" and method not in METHODS:
        raise ValueError(f"method {method!r} is unknown: {did_you_mean(method, ['auto', *METHODS])}")
    if batch < 1:
        raise ValueError(f"batch = {batch}: give 1 or more")
    own = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device is not None and torch.device(device).type != own.type:
        raise ValueError(f"the model is on {own} and not on {device}: move it there first, model.to({str(device)!r})")
    job = Job(model, batch, own, precision)
    if method == "auto":
        choice = Choice(job, work, TimingFile(cache_folder(cache) / "fast.json", job))
        fast = FastModel(job, choice.method, choice)
    else:
        if reason := unavailable(method, own, precision):
            raise (ImportError if "pip install" in reason else ValueError)(f"{method}: {reason}")
        prepare(job, method)
        fast = FastModel(job, method)
    fast.prepare_seconds = time.perf_counter() - started
    return fast
