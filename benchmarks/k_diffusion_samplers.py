"""k-diffusion's samplers on the bundled model, from the same starting noise as ours.

    pip install --no-deps --target PEERS k-diffusion==0.1.1.post1 torchsde==0.2.6 torchdiffeq==0.2.5 trampoline==0.1.2
    python benchmarks/k_diffusion_samplers.py --peers PEERS --calls 5 10 --n 10000

For each number of network calls its deterministic samplers run on its two grids with `--choose` images; the best
of them runs with `--n` images of other noise, and so does the fitted sampler of the bundled model. FID by the bundled extractor
against the 10,000 test images, with 95 % intervals. k_diffusion/sampling.py is imported without the rest of the package.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

import alphabar
from alphabar.core.machine import machine
from alphabar.core.progress import track
from alphabar.core.seeds import starting_noise
from alphabar.data.images import to_pixels

BATCH = 128
CALLS_PER_STEP = {"sample_euler": 1, "sample_lms": 1, "sample_dpmpp_2m": 1, "sample_heun": 2}


def sampling_module(peers: Path) -> ModuleType:
    """k_diffusion.sampling, with the one function of k_diffusion.utils that its samplers use."""
    sys.path.insert(0, str(peers))
    package = ModuleType("k_diffusion")
    package.__path__ = [str(peers / "k_diffusion")]
    sys.modules["k_diffusion"], sys.modules["k_diffusion.utils"] = package, ModuleType("k_diffusion.utils")
    package.utils = sys.modules["k_diffusion.utils"]
    package.utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    import k_diffusion.sampling

    return k_diffusion.sampling


def settings(kd: Any, model: Any, calls: int) -> Iterator[tuple[str, Callable[..., Any], torch.Tensor]]:
    """Name, sampler and levels of everything that spends at most `calls` network calls."""
    low, high = 0.002, float(model.schedule.sigma_max)
    for name, cost in CALLS_PER_STEP.items():
        steps = calls if cost == 1 else (calls + 1) // 2  # Heun's last step is Euler's
        for grid, levels in (("karras", kd.get_sigmas_karras), ("exponential", kd.get_sigmas_exponential)):
            yield f"{name.removeprefix('sample_')}, {grid}", getattr(kd, name), levels(steps, low, high)


@torch.inference_mode()
def draw(model: Any, sampler: Callable[..., Any], sigmas: torch.Tensor, seed: int, n: int, what: str) -> np.ndarray:
    made = []
    with track(n, what) as advance:
        for start in range(0, n, BATCH):
            rows = range(start, min(start + BATCH, n))
            x = starting_noise(seed, rows, model.image_shape).mul_(float(sigmas[0])).contiguous(memory_format=torch.channels_last)
            made.append(to_pixels(sampler(model, x, sigmas, disable=True), np.dtype("uint8")))
            advance(len(rows))
    return np.concatenate(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--choose", type=int, default=600)
    a = parser.parse_args()
    kd = sampling_module(a.peers)
    model = alphabar.load_model("bundled").to(memory_format=torch.channels_last).eval()
    evaluator = alphabar.ImageEval("bundled", "fashion_mnist:test")
    print(machine()["cpu"], torch.get_num_threads(), "threads")
    for calls in a.calls:
        tried = {}
        for name, sampler, sigmas in settings(kd, model, calls):
            tried[name] = evaluator.fid(draw(model, sampler, sigmas, 1, a.choose, name)).value, sampler, sigmas
        print(calls, "calls:", {name: round(value, 2) for name, (value, *_) in tried.items()})
        best = min(tried, key=lambda name: tried[name][0])
        theirs = draw(model, *tried[best][1:], 0, a.n, f"{best}, {calls} calls")
        ours = alphabar.sample(model, a.n, sampler="tuned", steps=calls, seed=0, batch=BATCH).images
        for name, images in ((best, theirs), ("fitted", ours)):
            score = evaluator.fid(images)
            print(f"{calls} calls, {name}, n = {a.n}: FID {score.value:.2f} {score.interval}")


if __name__ == "__main__":
    main()
