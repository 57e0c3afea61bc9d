"""Two processes of torchrun divide the images of a `sample` or `restore` with `out` among themselves: those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alphabar import restore
from alphabar.sampling.batches import SamplingStep
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from tests.fixtures.oracles import tiny_network
from tests.verbs.test_restore import images, model

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {"steps": 3, "batch": 4, "eta": 1.0, "keep_x0": (0,), "progress": False}
RESTORED = {"task": "inpaint", "degrade": True, "draws": 3, "calls": 4, "batch": 2, "progress": False}
CHILD = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from alphabar import restore
from alphabar.core import processes
from alphabar.sampling.sample import sample
from tests.fixtures.oracles import tiny_network
from tests.sampling.test_processes import OPTIONS, RESTORED
from tests.verbs.test_restore import images, model

torch.set_num_threads(1)
out, found, (rank, size) = Path(sys.argv[2]), {}, processes.world()
try:  # the images of another seed stand there, unfinished
    sample(tiny_network(), 10, seed=1, out=out / "other.npz", **OPTIONS)
except ValueError as error:
    found["other"] = str(error)
steps = []
made = sample(tiny_network(), 10, out=out / "two.npz", fast="channels_last", on_step=steps.append, **OPTIONS)
restored = restore(model(), images(), out=out / "restored.npz", **RESTORED)
(out / f"{rank}.json").write_text(json.dumps(
    {**found, "size": size, "firsts": sorted({s.first for s in steps}), "images": made.images.tolist(),
     "draws": restored.draws.tolist()}
))
"""


@pytest.mark.slow(15)
def test_two_processes_make_the_images_of_one(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(step: SamplingStep) -> None:
        if step.first > 0:  # the first batch is finished
            raise Stop

    with pytest.raises(Stop):
        sample(tiny_network(), 10, out=tmp_path / "other.npz", on_step=stop, **OPTIONS)
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    env = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script, ROOT, tmp_path],
        env={**env, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one = sample(tiny_network(), 10, fast="channels_last", **OPTIONS)
    alone = restore(model(), images(), **RESTORED)
    assert np.array_equal(Samples.load(tmp_path / "restored.npz").images, alone.draws[0])
    saved = Samples.load(tmp_path / "two.npz")
    assert np.array_equal(saved.images, one.images)
    assert saved.record["n"] == 10 and saved.record["nfe"] == 3.0
    assert not (tmp_path / "two.part").exists()
    for rank, firsts in enumerate(([0, 8], [4])):  # each its share
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert (found["size"], found["firsts"]) == (2, firsts)
        assert np.array_equal(found["images"], one.images)
        assert np.array_equal(found["draws"], alone.draws)
        assert "holds unfinished samples that differ in seed" in found["other"]
