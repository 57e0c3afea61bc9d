"""A network exported as an ONNX model, without the exporter's messages."""

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

import torch
from torch import Tensor, nn


def export_onnx(network: nn.Module, inputs: Sequence[Tensor]) -> bytes:
    """The ONNX model of a network, for any batch size.

    Args:
        network: in evaluation mode.
        inputs: examples of its inputs, batch first.

    Raises:
        RuntimeError: if the exporter of PyTorch returns no program.
    """
    # two images, because the exporter takes a batch of 1 for a constant
    examples = tuple(v[:2] if len(v) > 1 else v.repeat(2, *[1] * (v.ndim - 1)) for v in inputs)
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in examples)
    with _quiet():
        program = torch.onnx.export(network, examples, dynamo=True, dynamic_shapes=shapes, verbose=False, optimize=True)
    if program is None:
        raise RuntimeError("torch.onnx exported no program: use another method, such as channels_last")
    exported: bytes = program.model_proto.SerializeToString()
    return exported


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
