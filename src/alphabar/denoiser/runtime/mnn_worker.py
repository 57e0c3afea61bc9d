"""One process that runs an MNN model on its share of each batch, started by `mnn.py`.

    python mnn_worker.py FOLDER INDEX THREADS

It imports nothing of alphabar, whose torch would cost seconds and hundreds of megabytes per process. FOLDER/job.json describes
the inputs, the output and the rows of each process; the arrays are files that both sides map. A byte on standard input starts a
batch, a byte on standard output reports its end; the end of standard input ends the process.
"""

import json
import os
import shutil
import sys
from pathlib import Path


def main() -> None:
    folder, index, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    reply = os.dup(1)
    os.dup2(2, 1)  # MNN prints messages on standard output
    import MNN.expr as expr
    import MNN.nn as nn
    import numpy as np

    job = json.loads((folder / "job.json").read_text())
    first, last = job["rows"][index]
    runtime = nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "high"},))
    net = nn.load_module_from_file(str(folder / "net.mnn"), [i["name"] for i in job["inputs"]], [job["output"]["name"]],
                                   runtime_manager=runtime)  # fmt: skip

    def mapped(array: dict) -> "np.ndarray":  # type: ignore[type-arg]
        return np.memmap(folder / array["name"], dtype=array["dtype"], mode="r+", shape=tuple(array["shape"]))[first:last]

    inputs, output = [mapped(i) for i in job["inputs"]], mapped(job["output"])
    kinds = {"float32": expr.float, "int32": expr.int}
    placeholders = [expr.placeholder(list(v.shape), expr.NCHW, kinds[v.dtype.name]) for v in inputs]
    os.write(reply, b"r")
    while os.read(0, 1):
        for placeholder, v in zip(placeholders, inputs, strict=True):
            placeholder.write(np.ascontiguousarray(v))
        out = net.forward(placeholders)
        out = out[0] if isinstance(out, (list, tuple)) else out
        output[:] = expr.convert(out, expr.NCHW).read()
        os.write(reply, b"d")
    shutil.rmtree(folder, ignore_errors=True)  # in case the parent was killed


if __name__ == "__main__":
    main()
