"""DDIM of alphabar and of diffusers with the same UNet2DModel weights, and the time that alphabar spends outside the network.

    python benchmarks/sampling.py                          # 50 steps, batch 64: some minutes on 2 cores
    python benchmarks/sampling.py --steps 3 --batch 2 --repeats 2 --channels 8 16 --groups 4     # a short run: seconds

Both sides make uint8 images from noise: ours with `alphabar.sample`, theirs with the loop of DDIMPipeline. They take
turns, in an order that changes from round to round, and every ratio is taken within a round: above 1 ours is faster.
Own work is the time that ours spends outside the network's forward: noise, noising arithmetic, conversion to pixels. The fast
path is what `speed_up` makes of the model with --fast (auto: measured here, which compiles and takes a minute; calls.py has them
all).
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.core.machine import machine
from alphabar.denoiser.model import Model, build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.runtime.fast_model import speed_up
from alphabar.denoiser.runtime.methods import METHODS
from alphabar.sampling.catalogue import SAMPLERS
from alphabar.sampling.sample import sample
from alphabar.training.checkpoint import BUNDLED, load_model

BETAS = {"beta_start": 1e-4, "beta_end": 0.01}


class Timed(nn.Module):
    """A network that adds up the time spent in it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seconds = 0.0

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        _wait(y.device)
        begun = time.perf_counter()
        out: Tensor = self.network(y, t)
        _wait(y.device)
        self.seconds += time.perf_counter() - begun
        return out


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def theirs(model: Model, steps: int, batch: int, eta: float) -> Callable[[], Any]:
    """What diffusers' DDIMPipeline does, without its progress bar."""
    from diffusers import DDIMScheduler

    unet = model.network.unet
    scheduler = DDIMScheduler(**BETAS, clip_sample=False)
    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def draw() -> Any:
        scheduler.set_timesteps(steps)
        device = next(model.parameters()).device
        y = torch.randn((batch, *model.image_shape), generator=generator).to(device)
        for t in scheduler.timesteps:
            out = unet(y, t).sample
            y = scheduler.step(out, t, y, eta=eta, generator=generator).prev_sample
        image = (y / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).numpy()
        return (image * 255).round().astype("uint8")

    return draw


def ours(model: Model, steps: int, batch: int, eta: float, grid: str | None, channels_last: bool) -> Callable[[], Any]:
    def draw() -> Any:
        return sample(model, batch, steps=steps, batch=batch, eta=eta, grid=grid, channels_last=channels_last, progress=False)

    return draw


def in_turns(tasks: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each task in each round; one round first that is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for k in range(repeats + 1):
        names = list(tasks)
        for name in names[k % len(names) :] + names[: k % len(names)]:
            begun = time.perf_counter()
            tasks[name]()
            if k:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def own_share(model: Model, repeats: int, draw: Callable[[Model], Callable[[], Any]]) -> list[float]:
    """The share of the time outside the network, one number a round."""
    timed = copy.deepcopy(model)
    watch = Timed(timed.network)
    timed.network = watch
    task = draw(timed)
    shares = []
    for k in range(repeats + 1):
        watch.seconds = 0.0
        begun = time.perf_counter()
        task()
        if k:
            shares.append(1 - watch.seconds / (time.perf_counter() - begun))
    return shares


def spread(values: list[float], digits: str = ".3f") -> str:
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median of their ratios is printed")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128], help="of UNet2DModel")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--fast", default="auto", choices=("auto", *METHODS), help="the way of the fast path")
    parser.add_argument("--device", default=None, help="cpu, cuda, ...; the CPU if left out")
    parser.add_argument("--json", type=Path, default=None, help="write the numbers here as well")
    a = parser.parse_args()

    recipe = ModelRecipe("unet2d", tuple(a.channels), blocks=2, groups=a.groups, prediction="eps")
    schedule = {"kind": "linear", "beta_min": BETAS["beta_start"], "beta_max": BETAS["beta_end"]}
    model = build(recipe, schedule, (1, a.size, a.size)).to(a.device or "cpu").eval()
    last = copy.deepcopy(model)
    quick = speed_up(model, a.fast, batch=a.batch)
    arguments = vars(a) | {"json": None}
    found: dict[str, Any] = {"machine": machine(), "threads": torch.get_num_threads(), "arguments": arguments}
    print(
        f"{found['machine']['cpu']}, {found['threads']} threads, torch {torch.__version__}; "
        f"UNet2DModel {a.channels}, {a.size}x{a.size}, {a.steps} steps, batch {a.batch}, {a.repeats} rounds"
    )

    for eta in (0.0, 1.0):
        seconds = in_turns(
            {
                "diffusers": theirs(model, a.steps, a.batch, eta),
                "alphabar": ours(model, a.steps, a.batch, eta, "leading", False),
                "alphabar, channels last": ours(last, a.steps, a.batch, eta, "leading", True),
                f"alphabar, {quick.method}": ours(quick, a.steps, a.batch, eta, "leading", False),
            },
            a.repeats,
        )
        found[f"eta {eta:g}"] = seconds
        for name, times in seconds.items():
            ratio = [b / t for b, t in zip(seconds["diffusers"], times, strict=True)]
            print(f"eta {eta:g}  {name:24} {statistics.median(times):8.3f} s   diffusers / this = {spread(ratio)}")

    models = {"UNet2DModel": model}
    if BUNDLED.exists():
        models["bundled"] = load_model("bundled").to(a.device or "cpu")
    else:
        print("the bundled model is not there: left out")
    for name, each in models.items():
        for sampler, entry in SAMPLERS.items():
            steps = max(k for k in range(1, a.steps + 1) if entry.calls(k) <= max(a.steps, entry.calls(1)))

            def draw(m: Model, sampler: str = sampler, steps: int = steps) -> Callable[[], Any]:
                return lambda: sample(m, a.batch, sampler=sampler, steps=steps, batch=a.batch, channels_last=True, progress=False)

            shares = own_share(each, a.repeats, draw)
            found[f"own work, {name}, {sampler}"] = shares
            noise = ", draws noise" if entry.stochastic else ""
            print(f"own work, {name}, {sampler}{noise}: {spread([100 * s for s in shares], '.2f')} %  (aim: under 2)")
    if a.json:
        a.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
