"""Makes what ships in src/alphabar/assets: test images, and a trained extractor and model with weights rounded to 16 bit.

    apt-get install dataset-fashion-mnist
    python benchmarks/make_assets.py
    alphabar extractor train fashion_mnist --out x.safetensors --epochs 16 --widths 48 96 192 --bf16
    python benchmarks/make_assets.py --extractor x.safetensors
    alphabar train fashion_mnist --recipe garments --out runs/garments --train.precision bf16
    python benchmarks/make_assets.py --model runs/garments

The present bundled model was trained further, and samplers were fitted to it (RESULTS.md, "The bundled model, trained further"):

    alphabar train fashion_mnist --recipe garments --out runs/more --train.init-from bundled --images 384000 --train.lr 1e-3 \
      --train.warmup 6400
    python benchmarks/make_assets.py --model runs/more

The model for one or two calls (RESULTS.md, "One and two calls"):

    alphabar extractor train fashion_mnist --seed 1 --epochs 3 --widths 32 64 128 --dim 256 --out a.safetensors
    alphabar extractor train fashion_mnist --seed 2 --epochs 3 --widths 24 48 96 192 --dim 256 --out b.safetensors
    alphabar distill bundled --q 4 8 16 32 64 --images 230400 --out runs/few           # stopped at 94,976 images
    alphabar distill runs/few --like a.safetensors b.safetensors --q 32 --images 76800 --out runs/fewer
    python benchmarks/make_assets.py --distilled runs/fewer
    alphabar extractor train fashion_mnist --seed 4 --epochs 2 --widths 48 64 96 --dim 384 --out d.safetensors
    alphabar distill runs/fewer --like a.safetensors b.safetensors d.safetensors --q 64 --images 320000 --batch 128 \
      --lr 4e-5 --seed 5 --out runs/least
    python benchmarks/make_assets.py --distilled runs/least
    alphabar extractor train fashion_mnist --self-supervised --seed 9 --epochs 3 --widths 32 64 128 --dim 256 --no-flip --bf16 \
      --out e.safetensors
    alphabar distill runs/least --like a.safetensors b.safetensors d.safetensors e.safetensors --q 64 --images 230000 \
      --batch 128 --lr 4e-5 --seed 8 --out runs/last
    python benchmarks/make_assets.py --distilled runs/last

ONNX Runtime Web for pages that draw (its files end in _gpu where they are the build for WebGPU):

    npm pack onnxruntime-web@1.30.0 && tar xzf onnxruntime-web-1.30.0.tgz
    pip install zopfli
    python benchmarks/make_assets.py --web package

The files of the Debian package are the original ones, so anybody gets the same bytes. Licence of the images: MIT
(Zalando SE, 2017); its text is stored next to them.
"""

import argparse
import re
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file

from alphabar.data.image_set import load
from alphabar.data.named_sets import NAMED
from alphabar.data.readers.idx import read_idx
from alphabar.denoiser.model import save_weights
from alphabar.features.extractor import Extractor
from alphabar.features.load import load_extractor
from alphabar.training.checkpoint import BUNDLED_FILES, load_model

ASSETS = Path(__file__).parents[1] / "src" / "alphabar" / "assets"
LICENSE = """\
fashion_mnist_test.npz holds the test images and labels of Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist

The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def make(source: Path, target: Path) -> Path:
    """Writes images (uint8, 10000 x 28 x 28 x 1), labels (int64) and classes; the same bytes every time."""
    images = read_idx(source / "t10k-images-idx3-ubyte.gz", 3)[..., None]
    labels = read_idx(source / "t10k-labels-idx1-ubyte.gz", 1).astype(np.int64)
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, images=images, labels=labels, classes=np.array(NAMED["fashion_mnist"].classes))
    (target.parent / "LICENSE.fashion_mnist").write_text(LICENSE, encoding="utf-8")
    return target


def ship_extractor(source: Path, target: Path) -> Path:
    """The extractor with its weights rounded to float16 (its fingerprint is of the rounded ones), accuracy taken again."""
    made = load_extractor(source)
    rounded = {k: v.half().float() for k, v in made.network.state_dict().items()}
    test = load("fashion_mnist", "test")
    record = dict(made.training_record)
    shipped = Extractor(
        "garments", made.architecture, rounded, image_shape=made.image_shape, classes=made.classes, training=record
    )
    shipped.training_record["accuracy"] = float((shipped.logits(test.pixels).argmax(1).numpy() == test.labels).mean())
    return _halve(shipped.save(target))


def ship_model(run: Path, target: Path) -> Path:
    """The averaged model of a run with its weights rounded to float16."""
    save_weights(target, load_model(run))
    return _halve(target)


def ship_runtime(package: Path, folder: Path) -> list[Path]:
    """The two builds of ONNX Runtime Web, each as a script for a worker, in which its exports are `ort`, and its WebAssembly."""
    import zopfli.gzip

    made = []
    for kind, build in (("", ""), ("_gpu", ".jspi")):
        code = (
            (package / "dist" / f"ort{build or '.wasm'}.bundle.min.mjs")
            .read_text()
            .replace("import.meta.url", "self.location.href")
        )
        body, exports = re.fullmatch(r"(.*)export\{(.*)\};\n//# sourceMappingURL=.*\n?", code, re.DOTALL).groups()
        inside = {name: variable for variable, name in (pair.split(" as ") for pair in exports.split(","))}
        ort = ",".join(f"{name}:{inside[name]}" for name in ("InferenceSession", "Tensor", "env"))
        wasm = (package / "dist" / f"ort-wasm-simd-threaded{build}.wasm").read_bytes()
        for suffix, content in (("js", f"{body}const ort={{{ort}}};\n".encode()), ("wasm", wasm)):
            made.append(folder / f"onnxruntime{kind}.{suffix}.gz")
            made[-1].write_bytes(zopfli.gzip.compress(content, numiterations=5))
    return made


def _halve(path: Path) -> Path:
    """Rewrites a safetensors file with 16-bit tensors and the same header; readers turn them back to 32 bit."""
    with safe_open(path, framework="pt") as f:
        tensors, header = {k: f.get_tensor(k).half() for k in f.keys()}, f.metadata()  # noqa: SIM118
    save_file(tensors, path, metadata=header)
    path.chmod(0o644)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, help="output file; default: the file in assets")
    parser.add_argument("--extractor", type=Path, help="ship this extractor and nothing else")
    parser.add_argument("--model", type=Path, help="ship this run's averaged model and nothing else")
    parser.add_argument("--distilled", type=Path, help="ship this distilled run's averaged model and nothing else")
    parser.add_argument("--web", type=Path, help="ship ONNX Runtime Web from this package of npm and nothing else")
    args = parser.parse_args()
    if args.web:
        path, *_ = ship_runtime(args.web, args.out or ASSETS / "web")
    elif args.extractor:
        path = ship_extractor(args.extractor, args.out or ASSETS / "fashion_mnist_extractor.safetensors")
        print(load_extractor(path).training_record)
    elif run := args.model or args.distilled:
        path = ship_model(run, args.out or BUNDLED_FILES["bundled" if args.model else "bundled/distilled"])
        print(load_model(path).fingerprint)
    else:
        path = make(args.source, args.out or ASSETS / "fashion_mnist_test.npz")
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
