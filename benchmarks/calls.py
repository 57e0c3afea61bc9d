"""Images per second and network call, for each runtime of a network, on this machine.

    python benchmarks/calls.py                    # the bundled network and the lesson's larger one, batch 64: some minutes
    python benchmarks/calls.py --batch 4 --rounds 2 --images 4 --methods eager channels_last --channels 8 16 --groups 4   # short

The methods take turns, in an order that changes from round to round, and every ratio is taken within a round, against
PyTorch without options (eager): above 1 is faster. CPU is processor time, in which what else runs on the machine does not count.
Then images are drawn with 10 and 50 calls of DDIM by each method and compared with those of eager.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphabar.core.machine import machine
from alphabar.core.seeds import starting_noise
from alphabar.data.images import to_pixels
from alphabar.denoiser.model import Model, build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.runtime.fast_model import FastModel, speed_up
from alphabar.denoiser.runtime.methods import METHODS, unavailable
from alphabar.sampling.samplers.ddim import ddim
from alphabar.schedule.grid import make_grid
from alphabar.training.checkpoint import BUNDLED, load_model

Ways = dict[str, FastModel]


def spread(values: list[float], digits: str = ".3f") -> str:
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def prepare(model: Model, methods: list[str], batch: int, bf16: bool, found: dict[str, Any]) -> Ways:
    """Every method that works here, with what it took to prepare and how its answers differ."""
    ways: Ways = {}
    device = next(model.parameters()).device
    for precision in ("float32", "bf16") if bf16 else ("float32",):
        for method in methods:
            name = method if precision == "float32" else f"{method} bf16"
            if why := unavailable(method, device, precision):
                print(f"  {name:22} left out: {why}")
                continue
            begun = time.perf_counter()
            try:
                ways[name] = speed_up(model, method, batch=batch, precision=precision)
            except RuntimeError as e:
                print(f"  {name:22} left out: {e}")
                continue
            seconds = time.perf_counter() - begun
            found[name] = {"prepare": seconds, "deviation": ways[name].deviation}
            print(f"  {name:22} ready in {seconds:5.1f} s; the network's output differs by at most {ways[name].deviation:.1e}")
    return ways


def race(ways: Ways, batch: int, rounds: int, found: dict[str, Any]) -> None:
    """One call of each way a round, after one that is thrown away."""
    first = next(iter(ways.values()))
    x = starting_noise(0, range(batch), first.image_shape).to(first.device)
    sigma = x.new_full((batch,), 1.0)
    wall: dict[str, list[float]] = {n: [] for n in ways}
    cpu: dict[str, list[float]] = {n: [] for n in ways}
    with torch.inference_mode():
        for k in range(rounds + 1):
            names = list(ways)
            for name in names[k % len(names) :] + names[: k % len(names)]:
                wait(first.device)
                begun, used = time.perf_counter(), time.process_time()
                ways[name](x, sigma)
                wait(first.device)
                if k:
                    wall[name].append(time.perf_counter() - begun)
                    cpu[name].append(time.process_time() - used)
    base = next(iter(ways))
    for name in ways:
        ratio = [b / t for b, t in zip(wall[base], wall[name], strict=True)]
        ratio_cpu = [b / t for b, t in zip(cpu[base], cpu[name], strict=True)]
        found[name] |= {"seconds": wall[name], "cpu": cpu[name], "ratio": ratio, "ratio_cpu": ratio_cpu}
        rate = batch / statistics.median(wall[name])
        used = 1e3 * statistics.median(cpu[name]) / batch
        print(
            f"  {name:22} {rate:8.1f} images/s a call   {base} / this = {spread(ratio)}   CPU {used:6.3f} ms, {spread(ratio_cpu)}"
        )


def finish(ways: Ways, images: int, found: dict[str, Any]) -> None:
    """Finished images by DDIM against those of the first way."""
    for steps in (10, 50):
        wanted = None
        for name, way in ways.items():
            grid = make_grid(way.schedule, steps)
            x = starting_noise(0, range(images), way.image_shape).to(way.device).mul_(float(grid[0]))
            with torch.inference_mode():
                made = torch.cat([ddim(way, part, grid) for part in x.split(way.batch)])
            pixels = to_pixels(made, np.uint8).astype(int)
            if wanted is None:
                wanted = made, pixels
                continue
            off, levels = float((made - wanted[0]).abs().max()), np.abs(pixels - wanted[1])
            found[name][f"{steps} calls"] = {"most": off, "levels": int(levels.max()), "pixels": float((levels > 0).mean())}
            print(
                f"  {steps} calls, {name:22} differ by at most {off:.1e} in [-1, 1]; in uint8 {100 * (levels > 0).mean():.4f} % "
                f"of pixels, by at most {levels.max()}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=None, help="finished by each way, to compare; a batch if left out")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--channels", type=int, nargs="+", default=[32, 64, 128, 256], help="of UNet2DModel; the recipe ddpm_v3's"
    )
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--bf16", action="store_true", help="in bfloat16 as well")
    parser.add_argument("--only", choices=("bundled", "unet2d"), default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=None, help="write the numbers here as well")
    a = parser.parse_args()

    found: dict[str, Any] = {"machine": machine(), "threads": torch.get_num_threads(), "arguments": vars(a) | {"json": None}}
    print(f"{found['machine']['cpu']}, {found['threads']} threads, torch {torch.__version__}; batch {a.batch}, {a.rounds} rounds")
    models: dict[str, Model] = {}
    if a.only != "unet2d" and BUNDLED.exists():
        models["the bundled network"] = load_model("bundled")
    if a.only != "bundled":
        recipe = ModelRecipe("unet2d", tuple(a.channels), blocks=2, groups=a.groups, prediction="eps", data_range=0.5)
        models[f"UNet2DModel {a.channels}"] = build(recipe, {"kind": "linear", "beta_max": 0.01}, (1, 32, 32))
    for name, model in models.items():
        model = model.to(a.device).eval()
        print(f"{name}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters")
        here: dict[str, Any] = found.setdefault(name, {})
        if ways := prepare(model, a.methods, a.batch, a.bf16, here):
            race(ways, a.batch, a.rounds, here)
            finish(ways, a.images or a.batch, here)
    if a.json:
        a.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
