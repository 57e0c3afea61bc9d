"""Export of a model as an ONNX file: the denoiser (x, sigma) -> x0_hat with its input scale, time and prediction type inside."""

import copy
import io
import logging
import math
import warnings
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.core.files import json_text, write_atomically
from alphabar.core.messages import as_path
from alphabar.core.outputs import check_output
from alphabar.core.seeds import starting_noise
from alphabar.core.types import Images, Labels, Levels
from alphabar.denoiser.model import Model
from alphabar.denoiser.precondition import eval_mode
from alphabar.schedule.base import Schedule
from alphabar.schedule.betas import Table
from alphabar.schedule.continuous import Cosine, Flow, LogSigma
from alphabar.schedule.noising import input_scale, to_x0

OPSET = 18
# Of x0_hat, relative to its scale where that is above 1; of eps_hat where the network predicts it: sigma multiplies its errors.
MOST_DEVIATION = 1e-4
LEAST = 64  # elements of a tensor that `half` rounds
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class OnnxTime(nn.Module):
    """t(sigma) of a schedule in float32 operations that ONNX has. Raises ValueError for a schedule that is not alphabar's."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        if not isinstance(schedule, (Cosine, Flow, LogSigma, Table)):
            raise ValueError(f"the schedule {schedule.kind!r} has no form in ONNX: train with cosine, log_sigma, flow or linear")
        self.schedule = schedule
        if isinstance(schedule, Table):
            self.register_buffer("log_sigma", torch.from_numpy(schedule._log_sigma.copy()).float())
            self.log_sigma: Tensor

    def forward(self, s: Levels) -> Tensor:
        own = self.schedule
        if isinstance(own, Cosine):  # acos(sqrt(f)) as an arc tangent, which keeps its digits at small sigma
            least = own.s / (1 + own.s) * math.pi / 2
            angle = torch.atan((math.sin(least) ** 2 + s**2).sqrt() / math.cos(least))
            t = angle * (2 / math.pi * (1 + own.s)) - own.s
        elif isinstance(own, Flow):
            t = s / (1 + s)
        elif isinstance(own, LogSigma):
            t = s.log() / 4
        else:
            x = s.log()
            above = (self.log_sigma[None, :] <= x[:, None]).sum(1).clamp(1, len(self.log_sigma) - 1)
            low, high = self.log_sigma[above - 1], self.log_sigma[above]
            t = (above - 1).float() + (x - low) / (high - low)
        return t.clamp(own.t_min, own.t_max)


class OnnxDenoiser(nn.Module):
    """A model in float32, as `Preconditioned`, without the checks of its inputs."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network, self.time = model.network, OnnxTime(model.own_schedule)
        self.prediction, self.data_range = model.prediction, model.data_range

    def forward(self, x: Images, sigma: Levels, labels: Labels | None = None) -> Images:
        r = self.data_range
        s = sigma * r
        c_in = (r * input_scale(self.prediction, s)).reshape(-1, 1, 1, 1)
        more = () if labels is None else (labels,)
        return to_x0(self.prediction, self.network(c_in * x, self.time(s), *more), r * x, s) / r


def check_onnx(model: Model) -> None:
    """Raises ValueError for a model that has no form in ONNX, and ImportError without the packages.

    Whether a network of the user can be traced is only seen in the export itself.
    """
    if getattr(model, "latents", None):
        raise ValueError("the model makes latents, and only its autoencoder makes images of them: it cannot be exported to ONNX")
    OnnxTime(model.own_schedule)
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ImportError(f"{', '.join(missing)} not installed: pip install 'alphabar[fast]'")


def export_onnx(model: Model, path: str | Path, *, half: bool = False) -> float:
    """Writes a model as one ONNX file, and compares its output with the model's on ONNX Runtime.

    The file has inputs x, float32 (n, c, h, w), noisy images x0 + sigma noise with x0 in [-1, 1], sigma, float32 (n,), and for a
    class-conditional model labels, int64 (n,); and the output x0_hat, of x's shape. n is free. The metadata says how images
    are prepared (`onnx_metadata`).

    Args:
        model: of images.
        path: the .onnx file.
        half: store the weights in 16 bits; the file is half as large, and computes in float32 as before.

    Returns:
        The largest deviation of its output from the model's (with half: from that of the model with rounded weights), relative
        to the output's scale where that is above 1.

    Raises:
        ValueError: for a model that ONNX cannot represent.
        RuntimeError: where the output deviates by more than 1e-4.
    """
    path = as_path(path)
    check_output(path, "ONNX model")
    content, deviation = onnx_bytes(model, half=half)
    write_atomically(path, content)
    return deviation


def onnx_bytes(model: Model, *, half: bool = False) -> tuple[bytes, float]:
    """The file of `export_onnx`, and the deviation of its output."""
    check_onnx(model)
    about = onnx_metadata(model)
    model = rounded(model) if half else model
    example = example_inputs(model)
    with eval_mode(model), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        try:
            program = traced(OnnxDenoiser(model), example, ["x", "sigma", "labels"][: len(example)], ["x0_hat"])
        except Exception as e:  # the exporter raises many types
            name = getattr(model, "spec", {}).get("network", type(model.network).__name__)
            reason = " ".join(str(e).split())
            raise ValueError(
                f"the network {name!r} cannot be exported to ONNX ({type(e).__name__}: {reason:.300}): its forward must be "
                "traceable by torch.export, without branches on the values of tensors"
            ) from e
    from onnx import checker, helper

    helper.set_model_props(program, {k: v if isinstance(v, str) else json_text(v) for k, v in about.items()})
    program.producer_name, program.doc_string = "alphabar", USE
    if half:
        _halve(program, {f"network.{name}" for name, p in model.network.named_parameters() if p.numel() >= LEAST})
    checker.check_model(program)
    content = bytes(program.SerializeToString())
    deviation = _deviation(model, content, example)
    if not deviation <= MOST_DEVIATION:
        raise RuntimeError(f"on ONNX Runtime the output deviates from the model's by {deviation:.2g}: nothing was written")
    return content, deviation


USE = (
    "A denoiser: x0_hat = E[x0 | x] for x = x0 + sigma noise, with clean images x0 in [-1, 1], (n, c, h, w) in float32. sigma is "
    "one noise level per image, between sigma_min and sigma_max of the metadata."
)


def onnx_metadata(model: Model) -> dict[str, Any]:
    """What a program needs to prepare images for a model and to finish those that it makes, as plain data."""
    c, h, w = model.image_shape
    return {
        "alphabar": "1", "model": model.fingerprint, "image_shape": [c, h, w], "range": [-1, 1],
        "input": "x = x0 + sigma * noise; x0 = 2 * pixel / scale - 1, channels first",
        "scale": {"uint8": 255, "uint16": 65535}.get(getattr(model, "pixels", "uint8"), 1),
        "pixels": getattr(model, "pixels", "uint8"), "value_range": getattr(model, "value_range", None),
        "padding": int(getattr(model, "crop", 0)), "fit": getattr(model, "fit", None),
        "sigma_min": model.schedule.sigma_min, "sigma_max": model.schedule.sigma_max,
        "prediction": model.prediction, "schedule": model.own_schedule.spec(), "data_range": model.data_range,
        "classes": list(getattr(model, "class_names", ())),
        "no_class": model.classes if model.classes and model.null_class else None,
        "distilled": bool(getattr(model, "consistency", False)),
    }  # fmt: skip


def example_inputs(model: Model, n: int = 2) -> tuple[Tensor, ...]:
    """x, sigma and, for a class-conditional model, labels of n images at levels over the whole range."""
    ends = torch.tensor([model.schedule.sigma_max, model.schedule.sigma_min], dtype=torch.float64).log()
    sigma = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, n, dtype=torch.float64)).exp().float()
    x = starting_noise(0, range(n), tuple(model.image_shape)) * (1 + sigma.square()).sqrt().reshape(-1, 1, 1, 1)
    return (x, sigma, torch.arange(n) % (model.classes + model.null_class)) if model.classes else (x, sigma)


def traced(
    module: nn.Module, inputs: Sequence[Tensor], inputs_named: Sequence[str] = (), outputs_named: Sequence[str] = ()
) -> Any:
    """A module as an ONNX ModelProto of any batch size, made without the exporter's messages. `inputs`: of two images or more,
    because the exporter takes a batch of 1 for a constant."""
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            program = torch.onnx.export(
                module, tuple(inputs), dynamo=True, dynamic_shapes=shapes, verbose=False, optimize=True, opset_version=OPSET,
                input_names=inputs_named or None, output_names=outputs_named or None,
            )  # fmt: skip
    finally:
        logger.setLevel(level)
    if program is None:
        raise RuntimeError("torch.onnx exported no program: use another method, such as channels_last")
    return program.model_proto


def _halve(program: Any, names: Collection[str]) -> None:
    """Stores these weights in float16, each with a cast back to float32, which runtimes carry out once when they load."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in program.graph.initializer:
        if (name := tensor.name) not in names or tensor.data_type != TensorProto.FLOAT:
            continue
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float16"), f"{name}_half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *program.graph.node]
    del program.graph.node[:]
    program.graph.node.extend(nodes)


def _deviation(model: Model, content: bytes, example: tuple[Tensor, ...]) -> float:
    """The largest difference between the file's output on ONNX Runtime and the model's, for batches of 1 and 5 images."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for inputs in (tuple(v[:1] for v in example), example_inputs(model, 5)):
        names = ["x", "sigma", "labels"]
        got = session.run(None, {name: v.numpy() for name, v in zip(names, inputs, strict=False)})[0]
        with torch.no_grad(), eval_mode(model):
            wanted = model(*inputs)
        levels = inputs[1].clamp(min=1).reshape(-1, 1, 1, 1) if model.prediction == "eps" else 1.0
        scale = max(1.0, float((wanted / levels).abs().max()))
        worst = max(worst, float(((torch.from_numpy(got) - wanted).abs() / levels).max()) / scale)
    return worst


def rounded(model: Model) -> Model:
    """A copy of the model with the weights that `half` keeps."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.network.parameters():
            if p.numel() >= LEAST:
                p.copy_(p.half().float())
    return other
