"""The network run by MNN (Jiang et al. 2020, arXiv:2002.12418), whose Winograd 3x3 convolutions need a third of the products.

MNN's Python binding keeps the interpreter lock while it computes, and its own threads scale badly on one small network (1.4
times as fast with two threads here). Therefore each core gets its own process and a share of the batch; see `mnn_worker.py`.
"""

import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core.files import json_text

MIN_SHARE = 8  # images per process; fewer do not pay for waking it
EXIT_SECONDS = 10  # that a process gets to end by itself
# MNN's own converter command installs another package and reports its use to a server. `_tools` does the conversion.
CONVERT = "import sys, MNN, _tools; sys.exit(0 if _tools.mnnconvert(sys.argv) else 1)"


class Workers:
    """`run(*inputs)` for batches of one size, divided among processes. They end with this object and with the program.

    onnx: the network; its output has the shape of its first input. inputs: examples of them. threads: cores to use.
    Raises RuntimeError if MNN cannot convert the model, or if a process ends, with its last message.
    """

    def __init__(self, onnx: bytes, inputs: Sequence[Tensor], threads: int) -> None:
        count = max(1, min(threads, len(inputs[0]) // MIN_SHARE))
        self.folder = Path(tempfile.mkdtemp(prefix="alphabar-mnn-"))
        try:
            _convert(onnx, self.folder)
            graph = _graph(onnx)
            arrays = [_array_spec(i.name, v) for i, v in zip(graph.input, inputs, strict=True)]
            output = _array_spec(graph.output[0].name, inputs[0])
            edges = np.linspace(0, len(inputs[0]), count + 1).round().astype(int).tolist()
            (self.folder / "job.json").write_text(json_text({"inputs": arrays, "output": output, "rows": [*pairwise(edges)]}))
            self.inputs, self.output = [self._map(a) for a in arrays], self._map(output)
            self.log = (self.folder / "log").open("wb")
            self.processes = [self._start(k, max(1, threads // count)) for k in range(count)]
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.close = weakref.finalize(self, _close, self.processes, self.log, self.folder)
        self._wait()

    def __call__(self, *inputs: Tensor) -> Tensor:
        for own, v in zip(self.inputs, inputs, strict=True):
            own[:] = v.numpy()
        for p in self.processes:
            try:
                p.stdin.write(b"g")
            except OSError:  # the process has ended; `_wait` reports it
                break
        self._wait()
        return torch.from_numpy(np.array(self.output))

    def _start(self, index: int, threads: int) -> Any:
        """A process whose standard input and output are pipes."""
        worker = Path(__file__).with_name("mnn_worker.py")
        return subprocess.Popen(
            [sys.executable, str(worker), str(self.folder), str(index), str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0,
            start_new_session=True,  # keeps Ctrl-C away from it: it ends when its standard input ends
        )  # fmt: skip

    def _map(self, array: dict[str, Any]) -> NDArray[Any]:
        return np.memmap(self.folder / array["name"], dtype=array["dtype"], mode="w+", shape=tuple(array["shape"]))

    def _wait(self) -> None:
        for p in self.processes:
            if not p.stdout.read(1):
                message = (self.folder / "log").read_bytes()[-300:].decode(errors="replace").strip()
                self.close()
                raise RuntimeError(f"a process of MNN has ended: {message or p.poll()}")


def _graph(onnx: bytes) -> Any:
    import onnx as onnx_package

    return onnx_package.load_from_string(onnx).graph


def _convert(onnx: bytes, folder: Path) -> None:
    (folder / "net.onnx").write_bytes(onnx)
    target = folder / "net.mnn"
    command = ["-f", "ONNX", "--modelFile", str(folder / "net.onnx"), "--MNNModel", str(target), "--bizCode", "alphabar"]
    done = subprocess.run([sys.executable, "-c", CONVERT, *command], capture_output=True, text=True, errors="replace")
    if done.returncode or not target.is_file():
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise RuntimeError(f"MNN cannot convert the network: {' '.join(lines[-2:])}")


def _array_spec(name: str, v: Tensor) -> dict[str, Any]:
    """Name, type and shape of a shared array; integers have 32 bits in MNN."""
    return {"name": name, "dtype": "float32" if v.is_floating_point() else "int32", "shape": list(v.shape)}


def _close(processes: Sequence[Any], log: IO[bytes], folder: Path) -> None:
    for p in processes:
        p.stdin.close()
    for p in processes:
        try:
            p.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
        p.stdout.close()
    log.close()
    shutil.rmtree(folder, ignore_errors=True)
