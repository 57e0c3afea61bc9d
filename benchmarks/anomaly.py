"""How well the scores of `alphabar anomaly` tell damaged and other images from held-out ones, with 95 % intervals.

    python benchmarks/anomaly.py --n 500                                      # 4 minutes of one core
    python benchmarks/anomaly.py --n 500 --others cifar10:train EMOJI:train   # other sets, grey and in the size of the run

The first n images of --usual decide what is usual, and the next n are compared with: the n after these, damaged at the second
severity of `alphabar extractor check` (inversion: all of them), and n images of every other set. No image is in two of the three
groups, and nothing was chosen on any of them. ROC AUC: the probability that the score of such an image is higher than that of a
usual one (0.5: they are alike).
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch

import alphabar
from alphabar.core.progress import track
from alphabar.core.types import Pixels
from alphabar.denoiser.precondition import eval_mode
from alphabar.evaluation.anomaly import AnomalyScore, anomaly_scores
from alphabar.evaluation.corruptions import CORRUPTIONS
from alphabar.evaluation.heldout import losses_by_level
from alphabar.evaluation.memorisation import auc
from alphabar.restoration.operators import LUMA
from alphabar.verbs.anomaly import levels_of

KINDS: tuple[AnomalyScore, ...] = ("levels", "middle", "all")
DAMAGE = ("blur", "noise", "contrast", "shift", "cutout", "inverted")


def another_set(name: str, like: Pixels, n: int) -> Pixels:
    """n images of another set in the size of `like`, grey where those are."""
    source, _, split = name.rpartition(":")
    n_channels = like.shape[3]
    images = np.asarray(alphabar.load(source, split, size="x".join(map(str, like.shape[1:3])), alpha="white").limited(n).pixels)
    if len(images) < n:
        raise SystemExit(f"{name} holds {len(images)} images, {n} were asked for: give --n {len(images)}")
    return images if images.shape[3] == n_channels else np.rint(images @ LUMA)[..., None].astype(images.dtype)


def groups(pixels: Pixels, others: list[str], n: int) -> Iterator[tuple[str, Pixels]]:
    for name in DAMAGE:
        damage = CORRUPTIONS[name]
        yield name, damage(pixels, 1.0 if name == "inverted" else damage.severities[1])
    for name in others:
        yield name, another_set(name, pixels, n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="bundled")
    parser.add_argument("--usual", default="fashion_mnist:test", help="SET:SPLIT that the run was not trained on, 3 n images")
    parser.add_argument("--others", nargs="*", default=[], help="SET:SPLIT, other images")
    parser.add_argument("--n", type=int, default=500)
    args = parser.parse_args()
    model = alphabar.load_model(args.run)
    source, _, split = args.usual.rpartition(":")
    every = np.asarray(alphabar.load(source, split).limited(3 * args.n).pixels)
    known, usual, pool = (every[k * args.n : (k + 1) * args.n] for k in range(3))
    named = [("known", known), ("usual", usual), *groups(pool, args.others, args.n)]
    sigmas = levels_of(model)
    with track(args.n * len(named) * len(sigmas), "denoising") as advance, eval_mode(model):
        losses = {name: losses_by_level(model, pixels, sigmas, draws=1, advance=advance) for name, pixels in named}
    print("| images against held-out ones | " + " | ".join(f"`{kind}`" for kind in KINDS) + " |")
    print("|--" * (1 + len(KINDS)) + "|")
    levels = torch.tensor(sigmas, dtype=torch.float64)
    for name, _ in named[2:]:
        cells = []
        for kind in KINDS:
            mine, theirs = (anomaly_scores(losses[k], losses["known"], levels, kind) for k in (name, "usual"))
            area = auc(theirs, mine)
            assert area.interval
            cells.append(f"{area.value:.3f} [{area.interval[0]:.3f}, {area.interval[1]:.3f}]")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
