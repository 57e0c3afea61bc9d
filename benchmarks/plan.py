"""Is the plan of `alphabar train SET` right? Planned and true time, planned and true peak memory, by trainings of two minutes.

    python benchmarks/plan.py                                        # 5 sets, 11 minutes on a quiet machine
    python benchmarks/plan.py --minutes 0.5 --sets cells emoji       # shorter, some of them

Each training runs in a separate process, as the command does. Sets: garments (Fashion-MNIST, 28x28), cifar10 (32x32), emoji
(64x64, on white), cells (16 bit, 64x64, made here) and tiles (128x128, four emoji each). cifar10 and emoji are found under the
data root ALPHABAR_DATA. Wanted: time within 25 %, memory within 20 %. "as busy": the same ratio where both times are multiplied
by the share of a processor that the process then had, which other programs change (with OMP_NUM_THREADS=1).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from alphabar.core.machine import machine, peak_memory
from alphabar.data.image_set import ImageSet, load
from alphabar.training.auto import auto_recipe
from alphabar.verbs.train import train

SETS = ("garments", "cifar10", "emoji", "cells", "tiles")


def emoji() -> ImageSet:
    return load(Path(os.environ.get("ALPHABAR_DATA", ".")) / "emoji", alpha="white")


def cells(n: int = 600) -> ImageSet:
    """Bright discs on a dim, noisy ground, in PNG files of 16 bit."""
    g, (y, x) = np.random.default_rng(0), np.mgrid[:64, :64]
    out = g.normal(2000, 200, (n, 64, 64))
    for image in out:
        for top, left, radius in g.uniform((8, 8, 3), (56, 56, 9), (6, 3)):
            image += 20_000 * np.exp(-((((y - top) ** 2 + (x - left) ** 2) / radius**2) ** 2))
    with tempfile.TemporaryDirectory() as folder:
        for k, image in enumerate(out.clip(0, 65535).astype(np.uint16)):
            Image.fromarray(image).save(f"{folder}/{k}.png")
        return load(np.asarray(load(folder).pixels))


def tiles() -> ImageSet:
    few = emoji().pixels
    each = np.asarray(few[: len(few) // 4 * 4]).reshape(-1, 2, 2, 64, 64, few.shape[-1])
    return load(each.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 128, 128, few.shape[-1]))


def image_set(name: str) -> ImageSet:
    made = {"emoji": emoji, "cells": cells, "tiles": tiles}
    return made[name]() if name in made else load({"garments": "fashion_mnist"}.get(name, name))


def one(name: str, minutes: float) -> dict[str, object]:
    """Plans and trains in this process, as `alphabar train` does."""
    images = image_set(name)
    clock = [(time.perf_counter(), time.process_time())]
    plan = auto_recipe(images, minutes=minutes)
    clock.append((time.perf_counter(), time.process_time()))
    with tempfile.TemporaryDirectory() as folder:
        train(plan, Path(folder) / "run", images=images, progress=False)
    clock.append((time.perf_counter(), time.process_time()))
    (planning, busy), (seconds, cpu) = np.diff(clock, axis=0).tolist()
    mib = peak_memory() / 2**20
    return {
        "name": name, "shape": "x".join(map(str, images.pixels.shape[1:])), "width": plan.recipe.model.channels[0],
        "precision": plan.recipe.train.precision, "planning": planning, "planned": [plan.seconds, plan.speeds[0].mib],
        "true": [seconds, mib], "busy": [busy / planning, cpu / seconds],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--one", action="store_true", help="only the first set, in this process, as a line of JSON")
    a = parser.parse_args()
    if a.one:
        print(json.dumps(one(a.sets[0], a.minutes)))
        return
    print(f"{machine()['cpu']}, {os.cpu_count()} cores; {a.minutes:g} minutes each\n")
    print(
        "| set | image | width | precision | planning | planned s | true s | ratio | as busy | planned MiB | true MiB | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in a.sets:
        words = [sys.executable, __file__, "--one", "--sets", name, "--minutes", str(a.minutes)]
        row = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        (s, mib), (true_s, true_mib) = row["planned"], row["true"]
        before, then = row["busy"]
        cells = [
            name, row["shape"], row["width"], row["precision"], f"{row['planning']:.0f} s", f"{s:.0f}", f"{true_s:.0f}",
            f"{true_s / s:.2f}", f"{true_s * then / (s * before):.2f}", f"{mib:.0f}", f"{true_mib:.0f}", f"{true_mib / mib:.2f}",
        ]  # fmt: skip
        print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
