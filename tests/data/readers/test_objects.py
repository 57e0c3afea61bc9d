"""Images that are Python objects give the set that files of the same images give."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as HubImage
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

import alphabar

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 10, 12, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


class Pairs(TorchDataset[Any]):
    classes = ("cat", "dog", "owl")

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, k: int) -> Any:
        if k >= len(PIXELS):
            raise IndexError(k)
        if self.kind == "dict":
            return {"image": PIXELS[k], "label": int(LABELS[k])}
        return torch.from_numpy(PIXELS[k]).permute(2, 0, 1).float() / 255, LABELS[k]  # what torchvision's ToTensor makes


def paths(folder: Path) -> list[Path]:
    for k, image in enumerate(PIXELS):
        Image.fromarray(image).save(folder / f"{k}.png")
    return [folder / f"{k}.png" for k in range(len(PIXELS))]


def hub(folder: Path) -> Dataset:
    features = Features({"image": HubImage(), "label": ClassLabel(names=["cat", "dog", "owl"])})
    return Dataset.from_dict({"image": [Image.fromarray(i) for i in PIXELS], "label": LABELS.tolist()}, features=features)


KINDS: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "array": (lambda folder: PIXELS, False),
    "tensor": (lambda folder: torch.from_numpy(PIXELS).permute(0, 3, 1, 2), False),
    "floats": (lambda folder: PIXELS / 255, False),
    "list of PIL images": (lambda folder: [Image.fromarray(i) for i in PIXELS], False),
    "list of paths": (paths, False),
    "list of pairs": (lambda folder: list(zip(paths(folder), LABELS, strict=True)), True),
    "list of arrays": (lambda folder: list(PIXELS), False),
    "TensorDataset": (lambda folder: TensorDataset(torch.from_numpy(PIXELS).permute(0, 3, 1, 2), torch.from_numpy(LABELS)), True),
    "Dataset of pairs": (lambda folder: Pairs("pair"), True),
    "Dataset of dictionaries": (lambda folder: Pairs("dict"), True),
    "Hugging Face": (hub, True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_object_gives_the_same_set(kind: str, tmp_path: Path) -> None:
    make, labelled = KINDS[kind]
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=LABELS)
    expected = alphabar.load(tmp_path / "set.npz", cache=tmp_path)
    images = alphabar.load(make(tmp_path), cache=tmp_path)
    assert images.fingerprint == expected.fingerprint
    assert np.array_equal(images.pixels, PIXELS)
    if labelled:
        assert images.labels is not None
        assert images.labels.tolist() == LABELS.tolist()
    else:
        assert images.labels is None
        assert alphabar.load(make(tmp_path), labels=LABELS, cache=tmp_path).labels.tolist() == LABELS.tolist()  # type: ignore[union-attr]
    if kind in ("Dataset of pairs", "Hugging Face"):
        assert images.classes == ("cat", "dog", "owl")


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "P", "1"])
def test_pil_images_of_every_mode_keep_their_values(mode: str, tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 65536, (8, 9), dtype=np.uint16)
    grey = Image.fromarray(PIXELS[0, :8, :9])
    image = Image.fromarray(array) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / "one.png")
    assert alphabar.load([image], cache=tmp_path).fingerprint == alphabar.load([tmp_path / "one.png"], cache=tmp_path).fingerprint
    if mode == "I;16":
        assert np.array_equal(alphabar.load([image], cache=tmp_path).pixels[0, ..., 0], array)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "holds no images"),
        (b"\0", "wanted a NumPy array"),
        ({"image": PIXELS}, r"images\['image'\]"),
        (DataLoader(Pairs("pair")), r"images came as DataLoader: pass .* images\.dataset"),
        ((image for image in PIXELS), r"images came as generator: pass list\(images\)"),
        (7, "images came as int"),
        ([1, 2], "is of type int"),
        ([{"picture": PIXELS[0]}], "items with the keys picture"),
        (["nowhere.png"], "there is no file nowhere.png"),
        ([PIXELS[0], PIXELS[1][:5]], "2 sizes"),
        (PIXELS.astype(np.float32), r"\[0, 1\]"),
        (PIXELS[..., 0].astype(np.int64) - 1, "int64"),
    ],
)
def test_what_holds_no_images_is_refused(images: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=words):
        alphabar.load(images, cache=tmp_path)


def test_pictures_that_were_jpeg_count_as_jpeg_from_every_object(tmp_path: Path) -> None:
    for k, image in enumerate(PIXELS):
        Image.fromarray(image).save(tmp_path / f"{k}.jpg")
    files = [tmp_path / f"{k}.jpg" for k in range(len(PIXELS))]
    table = Dataset.from_dict({"picture": [str(f) for f in files]}).cast_column("picture", HubImage())
    for images in (files, [Image.open(f) for f in files], table):
        assert alphabar.load(images, cache=tmp_path).jpeg == 1
    stored = [Image.open(f).convert("RGB") for f in files]  # the same pixels, of which Pillow no longer says so
    assert alphabar.load(stored, cache=tmp_path).jpeg == 0


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path))
    page = (Path(__file__).parents[3] / "docs" / "images.md").read_text()
    code = page.partition("## Images in memory")[2].partition("```python\n")[2].partition("```")[0]
    shown = re.sub(r"^alphabar\.load", "loaded += alphabar.load", code, flags=re.MULTILINE).replace("alphabar.load(", "keep(")
    found: list[Any] = []

    def keep(*images: Any, **options: Any) -> list[Any]:
        return [alphabar.load(*images, **options)]

    exec(compile(shown, "images.md", "exec"), {"keep": keep, "loaded": found})
    assert [len(s) for s in found] == [6, 6, 6, 6, 6, 6, 9]
    assert len({s.fingerprint for s in found[:6]}) == 1
    assert [s.labels is not None for s in found] == [True, False, False, True, True, True, False]


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each of 6 images"):
        alphabar.load(PIXELS, labels=[0, 1], cache=tmp_path)
    np.savez(tmp_path / "set.npz", images=PIXELS)
    with pytest.raises(ValueError, match="images in memory"):
        alphabar.load(tmp_path / "set.npz", labels=LABELS, cache=tmp_path)
