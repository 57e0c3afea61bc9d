"""Damaged and hostile files of extractors and weights, and images that are no images: each ends in one clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from alphabar.core.weights import read_weights
from alphabar.features.classifier import Classifier
from alphabar.features.extract import extract
from alphabar.features.extractor import Extractor, read_extractor
from alphabar.features.load import load_extractor
from alphabar.features.module_extractor import ModuleExtractor
from alphabar.features.stats import FeatureStats
from tests import typecheck
from tests.fixtures.mutations import faults, faults_of, tree_mutations

ARCHITECTURE = {"in_channels": 1, "widths": [4, 6], "dim": 5, "classes": 3}
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
GONE = object()


def toy() -> Extractor:
    network = Classifier(**ARCHITECTURE)
    network.fold()
    names, training = ("shoe", "bag", "coat"), {"set": "toy:train", "epochs": 1}
    extractor = Extractor(
        "toy", ARCHITECTURE, network.state_dict(), image_shape=(1, 8, 8), classes=names, training=training
    )  # fmt: skip
    extractor.check = {
        "verdict": "passed", "extractor": extractor.fingerprint, "skipped": {}, "versions": {},
        "corruptions": {"shift": {"n": 3, "ranked": {"fid": True, "kid": False}}},
    }  # fmt: skip
    return extractor


def parts(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of the toy's file."""
    toy().save(file)
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["alphabar_extractor"])
    return read_weights(file), header


def write(file: Path, tensors: dict[str, Tensor], header: Any) -> None:
    text = header if isinstance(header, str) else json.dumps(header)
    file.write_bytes(save(tensors, metadata={"alphabar_extractor": text}))


def use(file: Path) -> None:
    extractor = read_extractor(file)
    extractor.features(IMAGES[:1])
    extractor.logits(IMAGES[:1])
    assert extractor.check_result and extractor.check_result_of("fid")


KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "format text": ({"format": "1"}, "format is '1'"), "format of tomorrow": ({"format": 9}, "update alphabar"),
    "name": ({"name": 5}, "name is 5; wanted a text"), "fingerprint": ({"fingerprint": None}, "fingerprint is None"),
    "fingerprint of another": ({"fingerprint": "0" * 16}, "its content gives"),
    "shape of two": ({"image_shape": [1, 8]}, "image_shape is"), "shape text": ({"image_shape": "188"}, "image_shape is"),
    "shape 2^40": ({"image_shape": [1, 2**40, 8]}, "image_shape is"), "shape 0": ({"image_shape": [0, 8, 8]}, "image_shape is"),
    "architecture": ({"architecture": [1]}, "architecture is"), "more": ({"architecture.x": 1}, "keyword argument 'x'"),
    "no dim": ({"architecture.dim": GONE}, "dim is missing"), "dim 10^10": ({"architecture.dim": 10**10}, "dim is 10000000000"),
    "dim text": ({"architecture.dim": "5"}, "dim is '5'"), "dim of other weights": ({"architecture.dim": 6}, "wanted float32"),
    "no widths": ({"architecture.widths": []}, "widths"), "widths number": ({"architecture.widths": 4}, "widths is 4"),
    "deep": ({"architecture.widths": [4] * 99}, "1 to 16"), "wide": ({"architecture.widths": [4, 10**9]}, r"widths\[1\]"),
    "channels": ({"architecture.in_channels": -1}, "in_channels is -1"),
    "classes -1": ({"architecture.classes": -1}, "classes is -1"),
    "classes true": ({"architecture.classes": True}, "classes is True"), "names": ({"classes": "abc"}, "classes is 'abc'"),
    "names of numbers": ({"classes": [1, 2, 3]}, r"classes\[0\] is 1"), "training": ({"training": [1]}, "training is"),
    "check": ({"check": "passed"}, "check is 'passed'"), "check without verdict": ({"check.verdict": GONE}, "verdict is missing"),
    "verdict": ({"check.verdict": 1}, "verdict is 1"), "no corruptions": ({"check.corruptions": GONE}, "corruptions is missing"),
    "corruptions": ({"check.corruptions": {"shift": 1}}, "shift is 1"),
    "ranked": ({"check.corruptions": {"shift": {"n": 3}}}, "ranked is missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_headers_with_odd_values(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "e.safetensors"
    tensors, header = parts(file)
    changes, reason = KINDS[kind]
    for key, value in changes.items():
        *way, last = key.split(".")
        table = header[way[0]] if way else header
        table[last] = value
        if value is GONE:
            del table[last]
    write(file, tensors, header)
    with pytest.raises(ValueError, match=reason) as e:
        use(file)
    assert "e.safetensors" in str(e.value)


def test_every_key_is_needed_or_may_be_absent(tmp_path: Path) -> None:
    file = tmp_path / "e.safetensors"
    tensors, header = parts(file)
    for key in header:
        write(file, tensors, {k: v for k, v in header.items() if k != key})
        if key in ("classes", "training", "check", "preprocessing"):
            use(file)
        else:
            with pytest.raises(ValueError, match=rf"e\.safetensors: {key} is missing"):
                use(file)


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape", "kind", "NaN", "no JSON", "a list", "deep"])
def test_weights_that_do_not_fit(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "e.safetensors"
    tensors, header = parts(file)
    name = "trunk.0.conv.weight"
    changed: Any = {
        "missing": ({k: v for k, v in tensors.items() if k != name}, header), 
        "unknown": ({**tensors, "x": torch.zeros(1)}, header),
        "shape": ({**tensors, name: tensors[name][:1].clone()}, header), "kind": ({**tensors, name: tensors[name].int()}, header),
        "NaN": ({**tensors, name: tensors[name] * float("nan")}, header), "no JSON": (tensors, "{"), "a list": (tensors, "[]"),
        "deep": (tensors, '{"a":' * 500 + "1" + "}" * 500),
    }[damage]  # fmt: skip
    write(file, *changed)
    with pytest.raises(ValueError, match=r"e\.safetensors"):
        use(file)


@pytest.mark.slow(6)
def test_mutated_extractors(tmp_path: Path) -> None:
    file = tmp_path / "e.safetensors"
    tensors, header = parts(file)
    assert faults(file.read_bytes(), file, lambda: use(file)) == []

    def cases() -> Any:
        for what, changed in tree_mutations(header):
            text = json.dumps(changed)
            yield what, bytes(save(tensors, metadata={"alphabar_extractor": text}))

    assert faults_of(cases(), file, lambda: use(file)) == []


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow(5)
def test_mutated_pth(zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save({"a": torch.randn(3, 4), "b": torch.arange(3)}, file, _use_new_zipfile_serialization=zipped)
    assert faults(file.read_bytes(), file, lambda: read_weights(file)) == []


@pytest.mark.parametrize(
    "name", ["nope", "", "~/nope", "/dev/null", "inception:", "inception:clean:7", "inception:clean@/dev/null", "os:system"]
)
def test_names_that_are_no_extractor(name: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=r"\w"):
        load_extractor(name)


# ---- from Python


@pytest.fixture
def unchecked() -> None:
    """The types that the tests check are passed wrong here."""
    typecheck.off()


NO_IMAGES: dict[str, Any] = {
    "nothing": None, "a text": "x", "a list": list(IMAGES), "int64": IMAGES.astype(np.int64),
    "channels first": IMAGES.transpose(0, 3, 1, 2),
    "two axes": IMAGES[:, :, 0, 0], "in colour": np.repeat(IMAGES, 3, 3), "NaN": np.full((3, 8, 8, 1), np.nan, np.float32),
    "-1 to 1": IMAGES.astype(np.float32) / 127.5 - 1, "objects": np.array([None] * 3), "of another size": IMAGES[:, :4],
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_IMAGES)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_image_gives_no_features(kind: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        toy().features(NO_IMAGES[kind])


@pytest.mark.parametrize("kind", [k for k in NO_IMAGES if k not in ("nothing", "a text", "a list")])
@pytest.mark.usefixtures("unchecked")
def test_nor_does_extract_take_it(kind: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        extract(NO_IMAGES[kind], toy(), cache=False)
    with pytest.raises(ValueError, match="no images came"):
        extract(IMAGES[:0], toy(), cache=False)


@pytest.mark.parametrize("device", ["cuda:77", "gpu", "", "mps:9"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=r"is not on this machine, which has cpu"):
        ModuleExtractor(torch.nn.Flatten(), "flat", 64, channels=1, device=device)


NO_FEATURES: dict[str, tuple[Callable[[], Any], str]] = {
    "none": (lambda: torch.zeros(0, 4), "n >= 1"), "a vector": (lambda: torch.zeros(4), "n >= 1"),
    "NaN": (lambda: torch.full((9, 4), float("nan")), "NaN or infinity among the features of image 0"),
    "infinity": (lambda: torch.full((9, 4), float("inf")), "NaN or infinity among the features of image 0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_FEATURES)
@pytest.mark.usefixtures("unchecked")
def test_features_without_statistics(kind: str) -> None:
    make, reason = NO_FEATURES[kind]
    with pytest.raises(ValueError, match=reason):
        FeatureStats.of(make(), "e")
