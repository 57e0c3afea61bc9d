"""Images per second of training: alphabar's loop against diffusers' example on the same network; profile.

    python benchmarks/training.py                                    # the lesson's UNet2DModel (ddpm_v2, 32x32), and our own
    python benchmarks/training.py --batch 16 --steps 4 --rounds 2    # a short run: minutes
    python benchmarks/training.py --best                             # each loop in float32 and bfloat16, in both memory layouts

The loops take turns, in an order that changes from round to round, and every ratio is taken within a round: above 1 means
that alphabar is faster. Theirs is the loop of examples/unconditional_image_generation in diffusers: a DataLoader that
normalises, DDPMScheduler.add_noise, MSE on eps, accelerate, clipping, AdamW, cosine rate, EMAModel. Ours is `alphabar train`,
whole: addressed noise, held-out share, EMA. Then the shares of one step by kind of work (torch.profiler), and our network
against that of diffusers at equal FLOPs per call. With --best, both loops take turns on one network in every setting, and the
fastest setting of ours is compared with the fastest of theirs, in wall time and in processor time.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from alphabar.core.machine import machine
from alphabar.core.run import Run
from alphabar.data.image_set import load
from alphabar.training.config import Recipe, resolve
from alphabar.training.hooks import Hook, Training
from alphabar.training.initial_model import new_model
from alphabar.training.loop import train
from alphabar.training.stream import Stream, pad_pixels

WARM = 2  # steps before the clock starts
KINDS = {
    "convolutions": ("convolution", "conv2d", "mkldnn_convolution"),
    "norms and activations": ("group_norm", "silu", "addcmul", "native_batch_norm"),
    "matrix products and attention": ("addmm", "::mm", "bmm", "scaled_dot", "linear"),
    "optimiser": ("_fused_adam", "_foreach_norm", "_foreach_mul", "clip_grad", "Muon"),
    "average of the weights": ("_foreach_lerp", "lerp"),
    "shuffling pixels and skips": ("cat", "pixel_shuffle", "pixel_unshuffle", "upsample", "copy_", "clone", "contiguous"),
}


def now() -> NDArray[np.float64]:
    """Wall time and processor time in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


class Clock(Hook):
    def __init__(self) -> None:
        self.times: list[NDArray[np.float64]] = []

    def on_step(self, training: Training) -> None:
        self.times.append(now())


def ours(recipe: Recipe, pixels: np.ndarray, steps: int) -> NDArray[np.float64]:
    """Images a second of our loop, by wall time and by processor time."""
    h, w, c = pixels.shape[1:]
    model = new_model(recipe, (c, h, w))
    brief = replace(
        recipe.train, images=(WARM + steps) * recipe.train.batch, log_every=0, checkpoint_every=0, heldout_every=0, warmup=0
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        train(model, pixels, np.arange(len(pixels)), brief, Run(scratch), hooks=[clock], progress=False)
    return recipe.train.batch * steps / (clock.times[-1] - clock.times[WARM - 1])


class Images(torch.utils.data.Dataset[Any]):
    """What their data set does to an image: to floats, and (x - 0.5) / 0.5."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        x = torch.from_numpy(np.array(self.pixels[k])).permute(2, 0, 1).float().div(255)
        return {"input": x.sub(0.5).div(0.5)}


def theirs(recipe: Recipe, pixels: np.ndarray, steps: int) -> NDArray[np.float64]:
    """Images a second, likewise, of a loop as diffusers' example has it, on the same network."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    h, w, c = pixels.shape[1:]
    unet = new_model(recipe, (c, h, w)).network.unet.train()
    unet = unet.to(memory_format=torch.channels_last) if recipe.train.channels_last else unet
    batch = recipe.train.batch
    AcceleratorState._reset_state()  # it otherwise keeps the precision of the loop before
    accelerator = Accelerator(mixed_precision=recipe.train.precision)
    ema = EMAModel(unet.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    noising = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    loader = torch.utils.data.DataLoader(
        Images(pad_pixels(pixels, recipe.data.pad)), batch_size=batch, shuffle=True, num_workers=0
    )
    rates = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=10_000)
    unet, optimizer, loader, rates = accelerator.prepare(unet, optimizer, loader, rates)
    times: list[NDArray[np.float64]] = []
    while len(times) < WARM + steps:
        for found in loader:
            clean = found["input"]
            noise = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device)
            t = torch.randint(0, 1000, (len(clean),), device=clean.device).long()
            with accelerator.accumulate(unet):
                out = unet(noising.add_noise(clean, noise, t), t).sample
                loss = F.mse_loss(out.float(), noise.float())
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(unet.parameters(), 1.0)
                optimizer.step()
                rates.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                ema.step(unet.parameters())
            loss.detach().item()  # their loop logs every step
            times.append(now())
            if len(times) == WARM + steps:
                break
    return batch * steps / (times[-1] - times[WARM - 1])


def shares(recipe: Recipe, pixels: np.ndarray) -> dict[str, float]:
    """Share of one step's processor time by kind of work; and of the thread that makes batches."""
    from torch.profiler import ProfilerActivity, profile

    h, w, c = pixels.shape[1:]
    model = new_model(recipe, (c, h, w))
    brief = replace(recipe.train, images=6 * recipe.train.batch, log_every=0, checkpoint_every=0, heldout_every=0, warmup=0)
    with tempfile.TemporaryDirectory() as scratch, profile(activities=[ProfilerActivity.CPU]) as seen:
        train(model, pixels, np.arange(len(pixels)), brief, Run(scratch), progress=False)
    spent = dict.fromkeys([*KINDS, "other"], 0.0)
    for row in seen.key_averages():
        kind = next((k for k, names in KINDS.items() if any(n in row.key for n in names)), "other")
        spent[kind] += row.self_cpu_time_total
    total = sum(spent.values())
    stream = Stream(pixels, np.arange(len(pixels)), recipe.train, model)
    begun = time.perf_counter()
    for k in range(5):
        stream.batch(k * recipe.train.batch, recipe.train.batch)
    making = (time.perf_counter() - begun) / 5
    return {k: v / total for k, v in spent.items()} | {"ms to make a batch, in a background thread": 1e3 * making}


def best(lesson: Recipe, pixels: np.ndarray, steps: int, rounds: int) -> None:
    """Prints the speed of both loops in every setting, and the ratio of the best of ours to the best of theirs, by rounds."""
    found: dict[str, dict[str, list[NDArray[np.float64]]]] = {"alphabar": {}, "diffusers": {}}
    for k in range(rounds):
        for precision, last in itertools.product(("no", "bf16"), (False, True)):
            recipe = replace(lesson, train=replace(lesson.train, precision=precision, channels_last=last))
            for who, loop in [("alphabar", ours), ("diffusers", theirs)][:: 1 if k % 2 else -1]:
                setting = f"{'bfloat16' if precision == 'bf16' else 'float32'}, {'channels last' if last else 'contiguous'}"
                found[who].setdefault(setting, []).append(loop(recipe, pixels, steps))
    for column, clock in enumerate(("wall time", "processor time")):
        fastest = {}
        for who, settings in found.items():
            speed = {name: [float(v[column]) for v in values] for name, values in settings.items()}
            print(f"{clock}, {who}: " + "; ".join(f"{name} {statistics.median(v):.1f} images/s" for name, v in speed.items()))
            fastest[who] = max(speed.items(), key=lambda item: statistics.median(item[1]))
        (a, mine), (b, other) = fastest["alphabar"], fastest["diffusers"]
        ratio = [m / o for m, o in zip(mine, other, strict=True)]
        print(f"{clock}: {a} against {b}: {statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})", flush=True)


def flops(recipe: Recipe, shape: tuple[int, int, int]) -> float:
    """GFLOP of one call for one image."""
    model = new_model(recipe, shape).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *model.image_shape), torch.ones(1))
    return counter.get_total_flops() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="fashion_mnist")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--equal", type=int, nargs="+", default=[72, 144], help="channels of our network at about equal FLOPs")
    parser.add_argument("--best", action="store_true", help="precisions and layouts of both loops, and nothing else")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    pixels = np.asarray(load(a.set, "train").pixels[:4096])
    shape = (pixels.shape[3], pixels.shape[1], pixels.shape[2])
    same = ["--train.batch", str(a.batch), "--train.policy", "cosine", "--train.clip", "1.0"]
    lesson = resolve("ddpm_v2", [*same, "--train.optimizer", "adamw"])
    plain = replace(lesson, train=replace(lesson.train, channels_last=False))
    own = resolve("garments", ["--train.batch", str(a.batch), "--model.channels", *map(str, a.equal)])
    tasks: dict[str, Callable[[], NDArray[np.float64]]] = {
        "diffusers' loop, UNet2DModel": lambda: theirs(plain, pixels, a.steps),
        "alphabar's loop, UNet2DModel": lambda: ours(lesson, pixels, a.steps),
        "alphabar's loop, contiguous": lambda: ours(plain, pixels, a.steps),
        "alphabar's loop, our network": lambda: ours(own, pixels, a.steps),
    }
    print(f"{machine()['cpu']}, {torch.get_num_threads()} threads, torch {torch.__version__}; batch {a.batch}, {a.rounds} rounds")
    print(f"GFLOP a call: UNet2DModel {flops(lesson, shape):.3f}, our network {flops(own, shape):.3f}")
    if a.best:
        best(lesson, pixels, a.steps, a.rounds)
        return
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for k in range(a.rounds):
        for name, task in list(tasks.items())[:: 1 if k % 2 else -1]:
            found[name].append(float(task()[0]))
    base = found["diffusers' loop, UNet2DModel"]
    for name, values in found.items():
        ratio = [v / b for v, b in zip(values, base, strict=True)]
        print(
            f"{name:32} {statistics.median(values):7.1f} images/s; {statistics.median(ratio):.2f} times diffusers' loop "
            f"({min(ratio):.2f} to {max(ratio):.2f})",
            flush=True,
        )
    cifar = resolve("cifar10", ["--train.batch", str(a.batch)])
    cifar = replace(cifar, model=replace(cifar.model, conditional=False))
    colour = np.random.default_rng(0).integers(0, 256, (512, 32, 32, 3), dtype=np.uint8)
    spent = {
        "UNet2DModel": shares(lesson, pixels), "garments": shares(resolve("garments"), pixels), "cifar10": shares(cifar, colour)
    }  # fmt: skip
    for name, by in spent.items():
        print(f"{name}: " + ", ".join(f"{k} {v:.1f}" if k.startswith("ms") else f"{k} {100 * v:.1f} %" for k, v in by.items()))
    if a.out:
        a.out.write_text(json.dumps({"machine": machine(), "images_per_second": found, "shares": spent}, indent=1) + "\n")


if __name__ == "__main__":
    main()
