"""Quality after equal training time on this machine, of four training programs, scored in the same way.

    python benchmarks/time_to_quality.py --minutes 20 60 --out ttq           # hours on 2 cores; run nothing else
    python benchmarks/time_to_quality.py --minutes 0.2 --n 600 --out try     # a short run
    python benchmarks/time_to_quality.py --only-rates --out ttq              # only the speed of each program
    python benchmarks/time_to_quality.py --minutes 20 60 --rates ttq/rates.json --out gpu    # on another machine, see below

lesson     the recipe ddpm_v2 with its one-cycle rate over the images seen in that time
diffusers  its unconditional-training example at its defaults: UNet2DModel of 128 to 512 channels, batch 16, AdamW 1e-4, 500 steps
           of warm-up and a cosine, EMA 0.9999
lucidrains denoising-diffusion-pytorch at its README's settings: Unet(64, (1, 2, 4, 8)), sigmoid schedule, v, batch 32 x 2,
           Adam 8e-5, EMA 0.995 (pip install denoising-diffusion-pytorch in a separate environment; its Trainer's torchvision
           is not needed)
alphabar   the recipe garments, or --recipe

The number of images that fit into the minutes is measured first (rates.json), in turns; learning rates decay over this number.
Then n images are drawn from the averaged weights by 50 calls of DDIM from the same noise, and scored by every extractor given.
Results are stored in --out, and a stopped run continues. With --rates, the number of images is that of the machine of that
file, while this machine, which may be faster, does the training: the result is what the other machine would have reached in
that time.
"""

import argparse
import json
import math
import statistics
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.core import seeds
from alphabar.core.files import write_atomically
from alphabar.core.machine import best_device, machine
from alphabar.core.progress import track
from alphabar.data.image_set import ImageSet, load, parse_set
from alphabar.data.images import to_model
from alphabar.data.split import holdout
from alphabar.denoiser.precondition import Preconditioned
from alphabar.evaluation.compare import compare_measured
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import Measured
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.schedule.base import Schedule
from alphabar.schedule.betas import Betas, Linear
from alphabar.training.checkpoint import load_model
from alphabar.training.config import Recipe, resolve
from alphabar.training.stream import pad_pixels
from alphabar.verbs.experiment import images_per_second
from alphabar.verbs.train import train

PAD = 2  # 28x28 becomes 32x32, which their networks need


class Plain(nn.Module):
    """Any of their networks as (y, t) -> output."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        out = self.net(y, t)
        return getattr(out, "sample", out)  # type: ignore[no-any-return]


@dataclass
class Theirs:
    """A way of training that is not ours: a network, how it is noised, and one optimiser step."""

    net: nn.Module
    schedule: Schedule
    prediction: str
    batch: int

    def step(self, batches: Iterator[Tensor], done: float) -> None:
        """One optimiser step. done: share of the training that is over."""
        raise NotImplementedError

    def averaged(self) -> nn.Module:
        raise NotImplementedError


class Diffusers(Theirs):
    def __init__(self, channels: int, size: int) -> None:
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.training_utils import EMAModel

        net = UNet2DModel(
            sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=2,
            block_out_channels=(128, 128, 256, 256, 512, 512),
            down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
        )  # fmt: skip
        super().__init__(net, Linear(), "eps", 16)
        self.noising = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        self.ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.steps = 0

    def step(self, batches: Iterator[Tensor], done: float) -> None:
        clean = next(batches)
        noise = torch.randn_like(clean)
        t = torch.randint(0, 1000, (len(clean),), device=clean.device)
        loss = F.mse_loss(self.net(self.noising.add_noise(clean, noise, t), t).sample, noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.steps += 1
        rate = 1e-4 * min(1.0, self.steps / 500) * (0.5 * (1 + math.cos(math.pi * done)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.net.parameters())

    def averaged(self) -> nn.Module:
        self.ema.copy_to(self.net.parameters())
        return self.net


class Lucidrains(Theirs):
    def __init__(self, channels: int, size: int) -> None:
        lacking = find_spec("torchvision") is None
        if lacking:  # asked for by the trainer alone, which is not used here
            stub = types.ModuleType("torchvision")
            stub.transforms, stub.utils = types.ModuleType("transforms"), types.ModuleType("utils")  # type: ignore[attr-defined]
            sys.modules["torchvision"] = stub
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA

        if lacking:
            del sys.modules["torchvision"]
        self.diffusion = GaussianDiffusion(Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=channels), image_size=size)
        betas = self.diffusion.betas.double()
        super().__init__(
            self.diffusion.model, Betas("given", steps=len(betas), given=tuple(betas.clamp(max=0.999).tolist())), "v", 64
        )
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), lr=8e-5, betas=(0.9, 0.99))
        self.ema = EMA(self.diffusion, beta=0.995, update_every=10)

    def step(self, batches: Iterator[Tensor], done: float) -> None:
        for half in next(batches).chunk(2):
            (self.diffusion((half + 1) / 2) / 2).backward()
        nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()

    def averaged(self) -> nn.Module:
        return self.ema.ema_model.model  # type: ignore[no-any-return]


WAYS: dict[str, type[Theirs]] = {"diffusers": Diffusers, "lucidrains": Lucidrains}


def batches_of(images: ImageSet, rows: np.ndarray, batch: int) -> Iterator[Tensor]:
    """Shuffled epochs, padded to 32x32, in [-1, 1]."""
    for epoch in range(10**9):
        order = rows[seeds.permutation(0, epoch, len(rows))]
        for start in range(0, len(order) - batch + 1, batch):
            yield to_model(pad_pixels(np.asarray(images.pixels[order[start : start + batch]]), PAD))


def start(name: str, images: ImageSet) -> tuple[Theirs, Iterator[Tensor]]:
    """Another library's training before its first step, on the best device, and its batches."""
    torch.manual_seed(0)
    c, h, _ = images.image_shape
    kept, _ = holdout(images.pixels, hashes=images.hashes)
    with torch.device(best_device()):  # their parts are made there, weights and averages alike
        way = WAYS[name](c, h + 2 * PAD)
    way.net.train()
    return way, (x.to(best_device()) for x in batches_of(images, kept, way.batch))


def their_training(name: str, images: ImageSet, amount: int) -> tuple[Preconditioned, int, float]:
    """(denoiser, images seen, seconds)."""
    way, batches = start(name, images)
    begun, steps = time.perf_counter(), max(1, round(amount / way.batch))
    with track(steps * way.batch, name) as advance:
        for k in range(steps):
            way.step(batches, k / steps)
            advance(way.batch)
    c, h, _ = images.image_shape
    model = Preconditioned(Plain(way.averaged().eval()), way.schedule, way.prediction, 1.0, (c, h + 2 * PAD, h + 2 * PAD))
    model.crop = PAD  # type: ignore[assignment]
    return model.eval(), steps * way.batch, time.perf_counter() - begun


def our_recipe(way: str, own: str, set_name: str) -> Recipe:
    recipe = resolve("ddpm_v2" if way == "lesson" else own, ["--data.set", set_name])
    return replace(recipe, watch=replace(recipe.watch, preview_every=0, score_every=0))


def our_training(recipe: Recipe, images: ImageSet, amount: int, out: Path) -> tuple[Any, int, float]:
    batch = recipe.train.batch
    quiet = replace(recipe, train=replace(recipe.train, images=max(1, round(amount / batch)) * batch))
    train(quiet, out, images=images, resume=(out / "recipe.toml").exists())
    seconds = json.loads((out / "checkpoints/last/state.json").read_text())["seconds"]
    return load_model(out), quiet.train.images, seconds


def rates_of(ways: list[str], own: str, set_name: str, images: ImageSet, rounds: int = 2) -> dict[str, list[float]]:
    """Images a second of each way's training here, measured in turns: all steps but the first of a few."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            if way in WAYS:
                theirs, batches = start(way, images)
                times = []
                for k in range(3):
                    theirs.step(batches, k / 1000)
                    times.append(time.perf_counter())
                found[way].append(2 * theirs.batch / (times[2] - times[0]))
            else:
                recipe = our_recipe(way, own, set_name)
                found[way].append(images_per_second(recipe, images, warm=1, timed=3 if recipe.train.batch > 256 else 8))
            print(f"{way}: {found[way][-1]:.2f} images a second", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="fashion_mnist")
    parser.add_argument("--against", default="fashion_mnist:test")
    parser.add_argument(
        "--extractors", nargs="+", default=["bundled"], help="the last one should not have been used in any tuning"
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[20, 60])
    parser.add_argument("--ways", nargs="+", default=["lesson", "diffusers", "lucidrains", "alphabar"])
    parser.add_argument("--recipe", default="garments")
    parser.add_argument("--rates", type=Path, help="rates.json of another machine, whose minutes are meant")
    parser.add_argument("--only-rates", action="store_true")
    parser.add_argument("--unscored", action="store_true", help="draw only; the same command without it scores")
    parser.add_argument("--batch", type=int, default=64, help="of sampling")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    images = load(a.set, "train")
    note = a.rates or a.out / "rates.json"
    if not note.exists():
        speeds = {"machine": machine(), "images_per_second": rates_of(a.ways, a.recipe, a.set, images)}
        write_atomically(note, json.dumps(speeds, indent=1) + "\n")
    if a.only_rates:
        return
    rates = {way: statistics.median(v) for way, v in json.loads(note.read_text())["images_per_second"].items()}
    evaluators = [] if a.unscored else [ImageEval(e, load(*parse_set(a.against))) for e in a.extractors]
    found: dict[str, Any] = {"machine": machine(), "arguments": {**vars(a), "out": str(a.out), "rates": str(note)}, "rows": []}
    measured: dict[str, list[Measured]] = {}
    for minutes in sorted(a.minutes):
        for way in a.ways:
            name = f"{way}-{minutes:g}min"
            kept = a.out / f"{name}.npz"
            if not kept.exists():
                print(f"{name}", flush=True)
                amount = round(60 * minutes * rates[way])
                if way in WAYS:
                    model, seen, seconds = their_training(way, images, amount)
                else:
                    recipe = our_recipe(way, a.recipe, a.set)
                    model, seen, seconds = our_training(recipe, images, amount, a.out / name)
                drawn = sample(model.to(best_device()), a.n, steps=a.steps, batch=a.batch, channels_last=True)
                drawn.record["trained"] = {"images": seen, "seconds": seconds}
                drawn.save(kept)
            if a.unscored:
                continue
            drawn = Samples.load(kept)
            measured[name] = [r.measure(drawn.images, drawn.record, ("fid", "kid")) for r in evaluators]
            trained = drawn.record["trained"]
            print(f"{name:22} {trained['images']:>9,} images, trained here in {trained['seconds'] / 60:.1f} min", flush=True)
            for extractor, m in zip(a.extractors, measured[name], strict=True):
                print(f"  {extractor}: " + "; ".join(str(s) for s in m.scores.values()), flush=True)
            scores = [[s.to_json() for s in m.scores.values()] for m in measured[name]]
            found["rows"].append({"way": way, "minutes": minutes, **trained, "scores": scores})
            (a.out / "time_to_quality.json").write_text(json.dumps(found, indent=1) + "\n")
    least, most = (f"{v:g}min" for v in (min(a.minutes), max(a.minutes)))
    for other in (w for w in a.ways if w != "alphabar"):
        if "alphabar" in a.ways and not a.unscored:
            for k, extractor in enumerate(a.extractors):
                names = (f"alphabar {least}", f"{other} {most}")
                for c in compare_measured(measured[f"alphabar-{least}"][k], measured[f"{other}-{most}"][k], names=names):
                    print(f"{extractor}: {names[0]} against {names[1]}: {c.words}")


if __name__ == "__main__":
    main()
