"""A small colour set: quality after the same CPU time of three training programs at their defaults.

    python benchmarks/own_images.py DATA --minutes 60 --out own              # hours; DATA has train and test images
    python benchmarks/own_images.py DATA --minutes 1 --n 40 --steps 5 --out try
    python benchmarks/own_images.py DATA --ways lucidrains --only-draw --out own   # one program; the scores later

diffusers  the command of its unconditional example's README at --resolution 64: UNet2DModel of 128 to 512 channels, batch 16,
           random flips, AdamW 1e-4, 500 steps of warm-up and a cosine, EMA
lucidrains denoising-diffusion-pytorch at its README's settings: Unet(64, (1, 2, 4, 8)), batch 32 x 2, random flips, Adam 8e-5,
           EMA 0.995 (see time_to_quality.py for how it is installed)
alphabar   `alphabar train DATA --minutes M`: every key is planned

Budgets are CPU minutes of the process (all its threads), so that other work on the machine does not count. Images of the held-out
split of DATA are the reference; alphabar alone keeps some of the training images out of its training. n images are drawn by the
same sampler, steps and noise, and scored on a classifier of the training images (DATA has classes), which nothing else uses: of
small sets, extractors without labels may overlook noise (`alphabar extractor check`). Everything is kept in --out, and a stopped
run continues.
"""

import argparse
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from time_to_quality import WAYS, Plain, Theirs
from torch import Tensor

from alphabar.core import seeds
from alphabar.core.files import write_atomically
from alphabar.core.machine import best_device, machine
from alphabar.core.progress import track
from alphabar.core.run import Run
from alphabar.data.contact_sheet import contact_sheet
from alphabar.data.image_set import ImageSet, load
from alphabar.data.images import to_model
from alphabar.denoiser.precondition import Preconditioned
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.memorisation import memorisation, pixel_features
from alphabar.features.load import load_extractor
from alphabar.features.options import SupervisedOptions
from alphabar.features.train import train_extractor
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.training.auto import auto_recipe
from alphabar.training.checkpoint import load_model
from alphabar.training.config import resolve
from alphabar.training.hooks import Hook, Training
from alphabar.training.lengthen import last_state
from alphabar.verbs.train import train

KEEP_EVERY = 300.0  # CPU seconds between checkpoints of the other programs
SEED = 7  # of the extractor


def flipped(images: ImageSet, batch: int, seen: int) -> Iterator[Tensor]:
    """Shuffled epochs in [-1, 1], half of the images mirrored at random, as both programs do."""
    n = len(images)
    for epoch in range(seen // n, 10**9):
        order = seeds.permutation(0, epoch, n)
        for start in range(0, n - batch + 1, batch):
            x = to_model(np.asarray(images.pixels[order[start : start + batch]]))
            mirror = torch.from_numpy(np.random.default_rng((epoch, start)).random(batch) < 0.5)
            yield torch.where(mirror[:, None, None, None], x.flip(-1), x).to(best_device())


def state_of(way: Theirs) -> dict[str, Any]:
    return {"net": way.net, "optimizer": way.optimizer, "ema": way.ema}  # type: ignore[attr-defined]


def their_training(name: str, images: ImageSet, minutes: float, out: Path) -> tuple[Preconditioned, int, float]:
    """(denoiser, images seen, CPU seconds)."""
    torch.manual_seed(0)
    c, h, w = images.image_shape
    with torch.device(best_device()):
        way = WAYS[name](c, h)
    way.net.train()
    seen, used, kept, file = 0, 0.0, 0.0, out / f"{name}.pt"
    if file.exists():
        stored = torch.load(file, weights_only=True)
        for key, part in state_of(way).items():
            part.load_state_dict(stored[key])
        seen, used = stored["seen"], stored["used"]
        way.steps = stored["steps"]  # type: ignore[attr-defined]
    batches, start, before = flipped(images, way.batch, seen), time.process_time(), used
    with track(round(60 * minutes), name, "CPU seconds", done=round(used)) as advance:
        while used < 60 * minutes:
            way.step(batches, used / (60 * minutes))
            seen, last, used = seen + way.batch, used, before + time.process_time() - start
            advance(round(used) - round(last))
            if used - kept > KEEP_EVERY or used >= 60 * minutes:
                state = {key: part.state_dict() for key, part in state_of(way).items()}
                torch.save({**state, "seen": seen, "used": used, "steps": getattr(way, "steps", 0)}, file.with_suffix(".new"))
                file.with_suffix(".new").replace(file)
                kept = used
    return Preconditioned(Plain(way.averaged().eval()), way.schedule, way.prediction, 1.0, (c, h, w)).eval(), seen, used


class Budget(Hook):
    """Stops the training, as Ctrl-C does, at a processor time of the process."""

    def __init__(self, until: float) -> None:
        self.until = until

    def on_step(self, training: Training) -> None:
        if time.process_time() > self.until:
            signal.raise_signal(signal.SIGINT)


def our_training(images: ImageSet, a: argparse.Namespace, out: Path) -> tuple[Any, int, float]:
    """(model, images seen, CPU seconds). Where other programs slow it down, it ends at the budget, before the plan's images."""
    file, start = out / "cpu_seconds.txt", time.process_time()
    spent, resume = float(file.read_text()) if file.exists() else 0.0, (out / "recipe.toml").exists()
    left = 60 * a.minutes - spent
    if resume:
        recipe = resolve(out / "recipe.toml")
    else:
        data = {"set": a.data, "alpha": a.alpha}
        found = auto_recipe(images, keys={"data": data, "watch": {"score_every": 0}}, minutes=a.minutes)
        print("\n".join(found.lines()), flush=True)
        recipe = found.recipe
    try:
        if left > 0:
            train(recipe, out, images=images, resume=resume, hooks=[Budget(start + left)])
    except KeyboardInterrupt:
        if time.process_time() - start < left:
            raise
    finally:
        used = time.process_time() - start + spent
        write_atomically(file, str(used))
    return load_model(out), int(last_state(Run(out))["images"]), used


def drawn(way: str, images: ImageSet, a: argparse.Namespace) -> Samples:
    """The samples of a program, trained where they do not exist yet."""
    kept = a.out / f"{way}.npz"
    if kept.exists():
        return Samples.load(kept)
    ours = way == "alphabar"
    model, seen, used = our_training(images, a, a.out / way) if ours else their_training(way, images, a.minutes, a.out)
    begun = time.process_time()
    samples = sample(model.to(best_device()), a.n, steps=a.steps, batch=16, out=kept)
    drawing = (time.process_time() - begun) / 60
    print(f"{way}: {seen:,} images in {used / 60:.1f} CPU minutes, drawn in {drawing:.1f}", flush=True)
    facts = {"images": seen, "cpu_minutes": used / 60, "machine": machine()}
    write_atomically(a.out / f"{way}.json", json.dumps(facts, indent=1) + "\n")
    contact_sheet(np.asarray(samples.images[:64])).save(a.out / f"{way}.png")
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder or file with the splits train and test")
    parser.add_argument("--minutes", type=float, default=60, help="CPU minutes of each training")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--alpha", default="white")
    parser.add_argument("--ways", nargs="+", default=["alphabar", "lucidrains", "diffusers"])
    parser.add_argument("--only-draw", action="store_true", help="do not score yet")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    images, heldout = (load(a.data, split, alpha=a.alpha) for split in ("train", "test"))
    samples = {way: drawn(way, images, a) for way in a.ways}
    if a.only_draw:
        return
    file = a.out / "extractor.safetensors"
    if not file.exists():
        train_extractor(images, SupervisedOptions(seed=SEED, widths=(32, 64, 128, 128), epochs=10)).save(file)
    evaluator = ImageEval(load_extractor(file), heldout)
    rows = {way: evaluator.measure(s.images, s.record, ("kid",)) for way, s in samples.items()}
    seen, unseen = (pixel_features(np.asarray(x.pixels)) for x in (images, heldout))
    found: dict[str, Any] = {}
    for way, row in rows.items():
        copies = memorisation(generated=pixel_features(np.asarray(samples[way].images)), train=seen, heldout=unseen)
        found[way] = {"kid": row.scores["kid"].to_json(), "copies": copies.to_json()}
        print(f"{way:11} {row.scores['kid']}; copies of training images: {copies.verdict}", flush=True)
    best = min((w for w in rows if w != "alphabar"), key=lambda w: rows[w].scores["kid"].value, default=None)
    if "alphabar" in rows and best:
        print(f"alphabar's KID is {rows['alphabar'].scores['kid'].value / rows[best].scores['kid'].value:.2f} of that of {best}")
    write_atomically(a.out / "own_images.json", json.dumps({"machine": machine(), "ways": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
