"""Makes src/alphabar/assets/fashion_mnist_test.npz: all 10,000 test images and labels of Fashion-MNIST, 4.4 MB.

    apt-get install dataset-fashion-mnist
    python benchmarks/make_assets.py

The files of the Debian package are the original ones, so anybody gets the same bytes. Licence of the images: MIT
(Zalando SE, 2017); its text is written beside them.
"""

import argparse
from pathlib import Path

import numpy as np

from alphabar.data.idx import read_idx
from alphabar.data.sources import NAMED

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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=ASSETS / "fashion_mnist_test.npz")
    args = parser.parse_args()
    path = make(args.source, args.out)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
