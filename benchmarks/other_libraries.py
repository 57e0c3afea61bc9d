"""Facts about other libraries that README states, measured: python benchmarks/other_libraries.py

Timesteps: how many of 10 steps of diffusers' DDIM on `linspace` use the alphabar of the next timestep in its list.
16 bit: how many levels of a 16-bit ramp remain after the expression by which torch-fidelity and clean-fid open images (the files
are read from .venv/peers, which `make test-all` installs), and after `alphabar.load`.
The convergence orders are measured by tests/sampling/test_diffusers.py (`test_their_third_order_measures_two`).
"""

import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from alphabar import load

STEPS = 10


def timesteps() -> None:
    import diffusers
    import torch

    scheduler = diffusers.DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    scheduler.set_timesteps(STEPS)
    listed = scheduler.timesteps.tolist()
    right = 0
    for t, t_next in pairwise([*listed, None]):
        x = torch.ones(1, 1, 1, 1)
        # with eps = 0 a step scales x by the root of the ratio of two alphabars
        stepped = scheduler.step(torch.zeros_like(x), t, x, eta=0.0).prev_sample.item()
        after = 1.0 if t_next is None else scheduler.alphas_cumprod[t_next].item()
        expected = (after / scheduler.alphas_cumprod[t].item()) ** 0.5
        right += t_next is None or abs(stepped / expected - 1) < 1e-4
    print(f"diffusers {diffusers.__version__}, DDIM on linspace, {STEPS} steps: {right} end at the next timestep of the list")


def sixteen_bit() -> None:
    ramp = (np.arange(16, dtype=np.uint16) * 4369).reshape(4, 4)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "ramp.png"
        Image.fromarray(ramp).save(path)
        for library, file in (("torch-fidelity", "torch_fidelity/datasets.py"), ("clean-fid", "cleanfid/utils.py")):
            source = (Path(sys.prefix) / "peers" / file).read_text().replace("'", '"')
            if 'Image.open(path).convert("RGB")' not in source:
                raise SystemExit(f"{file} opens images in another way now")
            levels = len(np.unique(np.asarray(Image.open(path).convert("RGB"))))
            print(f"{library}: {levels} of 16 levels of a 16-bit ramp remain")
        print(f"alphabar: {len(np.unique(load(name).pixels))} of 16 remain")


if __name__ == "__main__":
    timesteps()
    sixteen_bit()
