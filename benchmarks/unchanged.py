"""Fingerprints of what the code computes, to compare two commits bit for bit on one machine.

    python benchmarks/unchanged.py before.json                      # at one commit
    python benchmarks/unchanged.py after.json --against before.json # at another; exits with 1 and names what differs

Pixels of 8 images from `bundled` for every sampler in the catalogue (eta 0 and 1 where the sampler takes it, with and without a
call plan), of the fitted samplers with 5 and 10 calls; the seven scores with their intervals of 600 images; the weights after 20
training steps of the recipe `garments`. Needs Fashion-MNIST (docs/images.md).
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

import alphabar
from alphabar.sampling.catalogue import SAMPLERS

STEPS = 12


def digest(array: "torch.Tensor") -> str:
    return hashlib.sha256(array.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def pixels() -> dict[str, str]:
    model = alphabar.load_model("bundled")
    found = {}
    for name, entry in SAMPLERS.items():
        for eta in (0.0, 1.0) if "eta" in entry.options else (None,):
            for plan in (None, "every(2)"):
                made = alphabar.sample(model, 8, sampler=name, steps=STEPS, eta=eta, plan=plan, progress=False)
                key = f"{name} eta={eta} plan={plan} nfe={made.record['nfe']:g}"
                found[key] = digest(torch.from_numpy(made.images))
    for calls in (5, 10):
        made = alphabar.sample(model, 8, sampler="tuned", steps=calls, progress=False)
        found[f"tuned {calls}"] = digest(torch.from_numpy(made.images))
    return found


def scores(folder: Path) -> dict[str, str]:
    path = folder / "samples.npz"
    alphabar.sample(alphabar.load_model("bundled"), 600, sampler="tuned", steps=5, out=path, progress=False)
    rows = alphabar.score(str(path), "fashion_mnist:test", progress=False)
    return {row.metric: f"{row.value!r} {row.interval!r}" for row in rows}


def weights(folder: Path) -> dict[str, str]:
    recipe = alphabar.resolve("garments", ["--train.images", str(20 * 64), "--train.batch", "64", "--data.limit", "4096"])
    alphabar.train(recipe, folder / "run", progress=False)
    files = sorted((folder / "run" / "checkpoints" / "last").glob("*.safetensors"))
    return {
        f"{file.stem}/{key}": digest(value) for file in files for key, value in sorted(load_file(file).items())
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # the same order of additions everywhere
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {"pixels": pixels(), "scores": scores(folder), "weights": weights(folder)}
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    if asked.against is None:
        return
    before = json.loads(asked.against.read_text())
    differ = [
        f"{part}: {key}"
        for part in found
        for key in sorted(found[part].keys() | before[part].keys())
        if found[part].get(key) != before[part].get(key)
    ]
    print(*differ, f"{len(differ)} of {sum(map(len, found.values()))} differ", sep="\n")
    raise SystemExit(bool(differ))


if __name__ == "__main__":
    main()
