"""One process that runs an MNN model on its share of each batch. Started by `mnn.py`; imports nothing of alphabar, whose torch
would take seconds and a few hundred megabytes for each.

    python mnn_worker.py FOLDER INDEX THREADS

FOLDER/job.json says what the inputs and the output are and which rows are whose; they lie in files there that both sides map.
A byte on standard input is one batch, a byte on standard output its end; the end of standard input is the end of the process.
"""

import json
import os
import shutil
import sys
from pathlib import Path


def main() -> None:
    folder, index, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    done = os.dup(1)
    os.dup2(2, 1)  # MNN prints on standard output what it thinks of the machine
    import MNN.expr as expr
    import MNN.nn as nn
    import numpy as np

    job = json.loads((folder / "job.json").read_text())
    first, last = job["rows"][index]
    runtime = nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "high"},))
    net = nn.load_module_from_file(str(folder / "net.mnn"), [i["name"] for i in job["inputs"]], [job["output"]["name"]],
                                   runtime_manager=runtime)  # fmt: skip

    def mapped(told: dict) -> "np.ndarray":  # type: ignore[type-arg]
        return np.memmap(folder / told["name"], dtype=told["dtype"], mode="r+", shape=tuple(told["shape"]))[first:last]

    inputs, answer = [mapped(i) for i in job["inputs"]], mapped(job["output"])
    kinds = {"float32": expr.float, "int32": expr.int}
    held = [expr.placeholder(list(v.shape), expr.NCHW, kinds[v.dtype.name]) for v in inputs]
    os.write(done, b"r")
    while os.read(0, 1):
        for to, v in zip(held, inputs, strict=True):
            to.write(np.ascontiguousarray(v))
        out = net.forward(held)
        out = out[0] if isinstance(out, (list, tuple)) else out
        answer[:] = expr.convert(out, expr.NCHW).read()
        os.write(done, b"d")
    shutil.rmtree(folder, ignore_errors=True)  # for a program that was killed and could not


if __name__ == "__main__":
    main()
