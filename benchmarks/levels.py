"""Which noise levels the FID of a model comes from: above a level, the network is replaced by the mean that it learns.

    python benchmarks/levels.py --above 20 5 2                      # the bundled model, 2,000 images: 25 minutes of one core
    python benchmarks/levels.py --above 5 --n 600 --steps 4

At high noise E[x0 | x] over the training images can be computed (`alphabar.training.targets`), which is what a perfect network
would have learned there. DDIM (eta 0) draws the same noises with the network at all levels, and with the mean above each level.
Below sigma 2 or so the mean is one of the training images, so that lower levels measure copying.
"""

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.data.image_set import load
from alphabar.data.images import to_model
from alphabar.denoiser.model import Model
from alphabar.evaluation.image_eval import ImageEval
from alphabar.features.load import load_extractor
from alphabar.sampling.sample import sample
from alphabar.training.checkpoint import load_model
from alphabar.training.targets import StableTargets


class Replaced(Model):
    """The model, with the mean of the training images above a noise level."""

    mean: StableTargets
    above: float

    def forward(self, x: Tensor, sigma: Tensor, *others: Any) -> Tensor:
        if float(sigma.min()) <= self.above:
            return super().forward(x, sigma, *others)
        level = sigma.expand(len(x)).to(x)
        return self.mean(torch.zeros_like(x), level, x / level.view(-1, 1, 1, 1))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="bundled")
    parser.add_argument("--set", default="fashion_mnist", help="the set that the run was trained on")
    parser.add_argument("--extractors", nargs="+", default=["bundled"])
    parser.add_argument("--above", type=float, nargs="+", default=[20.0, 5.0, 2.0], help="levels")
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    model, real = load_model(arguments.run), load(arguments.set, "test")
    mean = StableTargets(to_model(np.array(load(arguments.set).pixels)).flatten(1))
    evaluators = [ImageEval(load_extractor(path), real, progress=False) for path in arguments.extractors]
    print("| the mean above sigma | " + " | ".join(f"FID, {path}" for path in arguments.extractors) + " | recall | coverage |")
    print("|--" * (3 + len(evaluators)) + "|")
    model.__class__, model.mean = Replaced, mean
    for above in (float("inf"), *arguments.above):
        model.above = above
        made = sample(model, arguments.n, steps=arguments.steps, eta=0.0, seed=arguments.seed, batch=250)
        first, *others = (evaluator.measure(made.images, None, ("fid", "recall", "coverage")).scores for evaluator in evaluators)
        scores = [first["fid"], *(s["fid"] for s in others), first["recall"], first["coverage"]]
        intervals = [f"{s.value:.3g}" + (" [{:.3g}, {:.3g}]".format(*s.interval) if s.interval else "") for s in scores]
        print("| " + " | ".join([f"{above:g}" if above < float("inf") else "none", *intervals]) + " |", flush=True)


if __name__ == "__main__":
    main()
