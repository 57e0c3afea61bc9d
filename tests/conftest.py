"""A small fashion_mnist for the commands: IDX files made of the bundled test images, under a data root of their own."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import typecheck

ASSETS = Path(__file__).parent.parent / "src" / "alphabar" / "assets"
N_TRAIN, N_TEST = 4000, 600

pytest_plugins = ["tests.fixtures.sets", "tests.fixtures.runs", "tests.fixtures.oracles", "tests.fixtures.training"]

torch.set_num_threads(1)  # two workers share two cores, and one thread gives the same bits everywhere


def pytest_runtest_protocol() -> None:
    typecheck.begin()  # before the fixtures of a test, which count as its own


def write_idx(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray) -> None:
    n, h, w = images.shape[:3]
    with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz", "wb", 1) as f:
        f.write(struct.pack(">IIII", 0x803, n, h, w) + np.ascontiguousarray(images).tobytes())
    with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz", "wb", 1) as f:
        f.write(struct.pack(">II", 0x801, n) + labels.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose fashion_mnist has 4,000 training and 600 test images."""
    root = tmp_path_factory.mktemp("data-root")
    folder = root / "fashion-mnist"
    folder.mkdir()
    with np.load(ASSETS / "fashion_mnist_test.npz", allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    write_idx(folder, "train", images[:N_TRAIN], labels[:N_TRAIN])
    write_idx(folder, "t10k", images[-N_TEST:], labels[-N_TEST:])
    return root


@pytest.fixture
def small_data(small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, found by name by this process and its children; the cache is the test's own."""
    monkeypatch.setenv("ALPHABAR_DATA", str(small_root))
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return small_root
