"""A network run by MNN (Jiang et al. 2020, arXiv:2002.12418), whose 3x3 convolutions are Winograd's: a third of the products.

Its Python binding holds the interpreter while it computes, and its own threads share one small network badly (two threads are
1.4 times as fast as one here). So each core gets a process of its own and a share of the batch; see `mnn_worker.py`.
"""

import json
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

SHARE = 8  # images of a process, at least: fewer do not pay for its waking up
# The package's own command for this installs another one and reports its use to a server. What does the work is `_tools`.
CONVERT = "import sys, MNN, _tools; sys.exit(0 if _tools.mnnconvert(sys.argv) else 1)"


class Workers:
    """`run(*inputs)` for batches of one size, by `threads` cores. They end with this object, and with the program.

    Raises RuntimeError where MNN cannot read the model or a process ends, with its last words.
    """

    def __init__(
        self, onnx: bytes, inputs: Sequence[Tensor], out: Tensor, names: tuple[Sequence[str], str], threads: int
    ) -> None:
        n = len(inputs[0])
        count = max(1, min(threads, n // SHARE))
        self.folder = Path(tempfile.mkdtemp(prefix="alphabar-mnn-"))
        try:
            _convert(onnx, self.folder)
            told = [_told(name, v) for name, v in zip(names[0], inputs, strict=True)]
            answer = _told(names[1], out)
            edges = np.linspace(0, n, count + 1).round().astype(int).tolist()
            rows = list(pairwise(edges))
            (self.folder / "job.json").write_text(json.dumps({"inputs": told, "output": answer, "rows": rows}))
            self.inputs, self.answer = [self._map(i) for i in told], self._map(answer)
            self.log = (self.folder / "log").open("wb")
            worker = Path(__file__).with_name("mnn_worker.py")
            self.processes = [
                subprocess.Popen(
                    [sys.executable, str(worker), str(self.folder), str(k), str(max(1, threads // count))],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0,
                    start_new_session=True,  # Ctrl-C is for us: the end of their standard input ends them
                )
                for k in range(count)
            ]  # fmt: skip
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._end = weakref.finalize(self, _end, self.processes, self.log, self.folder)
        self._wait()

    def __call__(self, *inputs: Tensor) -> Tensor:
        for to, v in zip(self.inputs, inputs, strict=True):
            to[:] = v.numpy()
        for p in self.processes:
            try:
                _pipe(p.stdin).write(b"g")
            except OSError:  # it has gone; `_wait` says so
                break
        self._wait()
        return torch.from_numpy(np.array(self.answer))

    def _map(self, told: dict[str, Any]) -> NDArray[Any]:
        return np.memmap(self.folder / told["name"], dtype=told["dtype"], mode="w+", shape=tuple(told["shape"]))

    def _wait(self) -> None:
        for p in self.processes:
            if not _pipe(p.stdout).read(1):
                said = (self.folder / "log").read_bytes()[-300:].decode(errors="replace").strip()
                self._end()
                raise RuntimeError(f"a process of MNN has ended: {said or p.poll()}")


def _convert(onnx: bytes, folder: Path) -> None:
    (folder / "net.onnx").write_bytes(onnx)
    made = folder / "net.mnn"
    command = ["-f", "ONNX", "--modelFile", str(folder / "net.onnx"), "--MNNModel", str(made), "--bizCode", "alphabar"]
    found = subprocess.run([sys.executable, "-c", CONVERT, *command], capture_output=True, text=True, errors="replace")
    if found.returncode or not made.is_file():
        lines = (found.stdout + found.stderr).strip().splitlines()
        raise RuntimeError(f"MNN cannot convert the network: {' '.join(lines[-2:])}")


def _told(name: str, v: Tensor) -> dict[str, Any]:
    """An array as a file and as MNN takes it: whole numbers have 32 bits there."""
    return {"name": name, "dtype": "float32" if v.is_floating_point() else "int32", "shape": list(v.shape)}


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("a process of MNN has no pipe")
    return pipe


def _end(processes: Sequence["subprocess.Popen[bytes]"], log: IO[bytes], folder: Path) -> None:
    for p in processes:
        _pipe(p.stdin).close()
    for p in processes:
        try:
            p.wait(10)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
        _pipe(p.stdout).close()
    log.close()
    shutil.rmtree(folder, ignore_errors=True)
