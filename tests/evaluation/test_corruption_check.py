"""The check against extractors that are blind by construction, on bundled real images."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from alphabar.data.image_set import ImageSet
from alphabar.evaluation.check_result import CheckResult
from alphabar.evaluation.corruption_check import ALL, METRICS, check
from alphabar.features.extractor import BUNDLED, Extractor, read_extractor, write_check_result
from alphabar.report.figures import check_table, draw_check
from tests.conftest import ASSETS
from tests.fixtures.sets import image_set, stripes

Array = NDArray[Any]
TESTED = ("blur", "noise", "contrast", "range", "inverted", "shift")


@dataclass
class Made:
    """Features [n, dim] made by a function of grey images [n, h, w] in 0..1."""

    function: Callable[[Array], Array]
    dim: int
    name: str = "made"

    @property
    def fingerprint(self) -> str:
        return f"made-{self.name}"

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        return {}

    def features(self, pixels: Array) -> torch.Tensor:
        full = {"uint8": 255, "uint16": 65535, "float32": 1}[pixels.dtype.name]
        return torch.from_numpy(self.function(pixels[..., 0].astype(np.float64) / full)).float()


def coarse(x: Array) -> Array:
    """Means of 7 x 7 blocks: nothing that is fine gets through."""
    return x.reshape(len(x), 4, 7, 4, 7).mean((2, 4)).reshape(len(x), -1)


def coarse_and_fine(x: Array) -> Array:
    curve = np.abs(4 * x[:, 1:-1, 1:-1] - x[:, :-2, 1:-1] - x[:, 2:, 1:-1] - x[:, 1:-1, :-2] - x[:, 1:-1, 2:])
    return np.concatenate([coarse(x), curve[:, 1:25, 1:25].reshape(len(x), 2, 12, 2, 12).mean((2, 4)).reshape(len(x), -1)], 1)


def standardised(x: Array) -> Array:
    """Whatever an image's brightness and contrast are, they are taken off."""
    x = x - x.mean((1, 2), keepdims=True)
    return coarse_and_fine(x / (x.std((1, 2), keepdims=True) + 1e-12))


def histogram(x: Array) -> Array:
    """Levels in their order, wherever they are."""
    return np.sort(x.reshape(len(x), -1), 1)[:, ::49]


def chance(x: Array) -> Array:
    """Random, though the same for the same image."""
    keys = (int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "little") for image in x)
    return np.stack([np.random.default_rng(key).standard_normal(6) for key in keys])


@pytest.fixture(scope="module")
def garments() -> tuple[ImageSet, ImageSet]:
    """A reference and other images, labelled."""
    with np.load(ASSETS / "fashion_mnist_test.npz", allow_pickle=False) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    return image_set(images[:2000], labels[:2000], "test"), image_set(images[2000:5000], labels[2000:5000])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))


def not_ranked(found: CheckResult, metric: str = "fid") -> set[str]:
    return {result.name for result in found.corruptions if not result.ranked[metric]}


@pytest.mark.parametrize(
    ("function", "dim", "blind_to"),
    [
        (coarse_and_fine, 20, set()),
        (coarse, 16, {"blur", "noise"}),
        (standardised, 20, {"contrast", "range"}),
        (histogram, 16, {"shift", "noise"}),  # noise of mean 0 leaves levels in order what they were
    ],
)
def test_an_extractor_fails_just_what_it_is_blind_to(
    garments: tuple[ImageSet, ImageSet], function: Callable[[Array], Array], dim: int, blind_to: set[str]
) -> None:
    reference, others = garments
    found = check(Made(function, dim), reference, floor_images=others, n=800, corruptions=TESTED)
    assert not_ranked(found) == blind_to
    assert blind_to <= not_ranked(found, "kid")
    assert (found.verdict == "passed") == (not found.failed)
    assert {name for name in TESTED if name in found.verdict} == blind_to | not_ranked(found, "kid")


@pytest.mark.parametrize(("function", "dim"), [(lambda x: np.ones((len(x), 5)), 5), (chance, 6)])
def test_constant_and_random_features_rank_nothing(
    garments: tuple[ImageSet, ImageSet], function: Callable[[Array], Array], dim: int
) -> None:
    reference, others = garments
    corruptions = ("blur", "noise", "contrast", "inverted", "missing classes")
    found = check(Made(function, dim), reference, floor_images=others, n=300, corruptions=corruptions)
    assert found.failed == list(corruptions)


def test_missing_classes_and_duplicates_are_of_the_pool(garments: tuple[ImageSet, ImageSet]) -> None:
    reference, others = garments
    # what sees nothing but the class misses classes, and with 3 images of each left it misses nothing else
    lookup = {image.tobytes(): label for s in garments for image, label in zip(s.pixels, s.labels, strict=True)}  # type: ignore[arg-type]

    class Labels(Made):
        def features(self, pixels: Array) -> torch.Tensor:
            return torch.eye(10)[[lookup[image.tobytes()] for image in pixels]][:, :9]

    seen: list[str] = []
    found = check(
        Labels(coarse, 9), reference, floor_images=others, n=500, corruptions=("missing classes", "duplicates"),
        on_result=lambda result: seen.append(result.name),
    )  # fmt: skip
    classes, duplicates = found.corruptions
    assert seen == ["missing classes", "duplicates"]
    assert classes.ranked["fid"]
    assert [each.severity for each in classes.severities] == [0, 1, 3, 5, 8]
    assert [each.severity for each in duplicates.severities] == [1, 2, 10, 50, 250]
    last = duplicates.shown[-1]
    assert len({image.tobytes() for image in last}) <= 2
    assert classes.note is None  # the labels were found


def test_without_labels_classes_are_clusters(garments: tuple[ImageSet, ImageSet]) -> None:
    reference, others = garments
    found = check(Made(coarse, 16), reference.pixels, floor_images=others.pixels, n=400, corruptions=["missing classes"])
    assert "clusters of pixels" in str(found.corruptions[0].note)
    assert found.corruptions[0].ranked["fid"]


@pytest.mark.slow
def test_the_standard_error_of_the_rise_is_its_scatter() -> None:
    """Over many draws of Gaussian images, rises scatter as their standard errors say."""
    rng = np.random.default_rng(0)

    def draw(n: int) -> Array:
        return (0.35 + 0.08 * rng.standard_normal((n, 4, 4, 1))).clip(0, 1).astype(np.float32)

    reference, model = draw(1000), Made(lambda x: x.reshape(len(x), -1)[:, :4], 4)
    found = [
        check(model, reference, floor_images=draw(200), n=200, corruptions=["range"]).corruptions[0].severities[2:]
        for _ in range(40)
    ]
    for metric in METRICS:
        values = np.array(
            [[[each.rise[metric].value, each.rise[metric].se] for each in severities] for severities in found], float
        )
        scatter, stated = values[..., 0].std(0, ddof=1), np.sqrt((values[..., 1] ** 2).mean(0))
        assert (np.abs(stated / scatter - 1) < 0.4).all(), metric  # 40 draws: the scatter itself is known to 11 %


def test_other_types_of_pixels_and_what_is_left_out(garments: tuple[ImageSet, ImageSet]) -> None:
    deep = [np.asarray(s.pixels[:600]).astype(np.uint16) * np.uint16(257) for s in garments]
    found = check(Made(coarse, 16), deep[0], floor_images=deep[1], n=64, corruptions=["jpeg", "range"])
    assert "8-bit images" in found.skipped["jpeg"]
    assert found.skipped["blur"] == "not asked for"
    assert not found.complete
    assert [result.name for result in found.corruptions] == ["range"]


def test_too_few_images_for_fid_leave_kid(garments: tuple[ImageSet, ImageSet]) -> None:
    reference, others = garments
    found = check(Made(lambda x: x.reshape(len(x), -1), 784), reference, floor_images=others, n=500, corruptions=["contrast"])
    assert list(found.corruptions[0].ranked) == ["kid"]
    assert "785" in str(found.corruptions[0].note)
    with pytest.raises(ValueError, match="at least 32"):
        check(Made(coarse, 16), reference, floor_images=others, n=20)
    with pytest.raises(ValueError, match="corruption 'blurr' is unknown: use blur"):
        check(Made(coarse, 16), reference, corruptions=["blurr"])


def test_a_feature_that_is_never_alive_stops_nothing(garments: tuple[ImageSet, ImageSet]) -> None:
    reference, others = garments
    dead = Made(lambda x: np.concatenate([coarse(x), np.zeros((len(x), 1))], 1), 17)
    found = check(dead, reference, floor_images=others, n=800, corruptions=["contrast", "noise"])
    assert not_ranked(found) == {"noise"}
    rise = found.corruptions[0].severities[3].rise["fid"]
    whole = (
        check(Made(coarse, 16), reference, floor_images=others, n=800, corruptions=["contrast"])
        .corruptions[0]
        .severities[3]
        .rise["fid"]
    )
    assert rise.value == pytest.approx(whole.value, rel=1e-6)
    assert rise.se == pytest.approx(whole.se, rel=0.02)


def test_where_there_are_no_influences_groups_tell_the_error(garments: tuple[ImageSet, ImageSet]) -> None:
    reference, others = garments
    twins = Made(lambda x: np.concatenate([coarse(x), coarse(x)], 1), 32)  # the covariance is singular, FID twice as large
    rise, whole = (
        check(made, reference, floor_images=others, n=800, corruptions=["contrast"]).corruptions[0].severities[3].rise["fid"]
        for made in (twins, Made(coarse, 16))
    )
    assert "singular" in str(rise.note)
    assert rise.value == pytest.approx(2 * whole.value, rel=1e-6)
    assert rise.se is not None and whole.se is not None
    assert 0.4 < rise.se / (2 * whole.se) < 2.5  # of 8 groups


def test_the_mark_is_in_the_file_and_the_fingerprint_stays(toy_extractor: Extractor, tmp_path: Path) -> None:
    path = toy_extractor.save(tmp_path / "x.safetensors")
    assert read_extractor(path).check_result == "not checked"
    found = check(read_extractor(path), stripes(400, 5), n=100, corruptions=["noise", "shift"])
    marked = write_check_result(path, found.summary())
    again = read_extractor(path)
    assert again.check_result == marked.check_result == found.verdict
    assert again.fingerprint == toy_extractor.fingerprint
    pixels = stripes(10, 1).pixels
    assert bool((again.features(pixels) == toy_extractor.features(pixels)).all())
    assert again.check is not None
    assert again.check["corruptions"]["noise"]["n"] == 100
    failed = [result.name for result in found.corruptions if not result.ranked["kid"]]
    assert again.check_result_of("kid") == (f"failed: {', '.join(failed)}" if failed else "passed")
    assert again.check_result_of("precision") == "not checked"
    assert read_extractor(again.save(tmp_path / "y.safetensors")).check_result == found.verdict
    with pytest.raises(ValueError, match="cannot be written into"):
        write_check_result(path, {**found.summary(), "extractor": "0" * 16})


def test_picture_table_and_json(garments: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    reference, others = garments
    found = check(Made(coarse, 16), reference, floor_images=others, n=64, corruptions=["noise", "duplicates"])
    with Image.open(draw_check(found, tmp_path / "deep" / "p.png")) as picture:
        assert picture.width > 800
        assert picture.height > 300
    assert [row[:2] for row in check_table(found)] == [(name, m) for name in ("noise", "duplicates") for m in ("FID", "KID")]
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["verdict"] == found.verdict
    assert len(plain["corruptions"]["noise"]["severities"]) == 6
    assert set(plain["skipped"]) | set(plain["corruptions"]) == set(ALL)
    severities = [each["severity"] for each in plain["corruptions"]["noise"]["severities"]]
    assert all(a < b for a, b in pairwise(severities))
    again = check(Made(coarse, 16), reference, floor_images=others, n=64, corruptions=["noise", "duplicates"])
    assert again.to_json() == found.to_json()


def test_the_bundled_extractor_says_what_was_measured() -> None:
    bundled = read_extractor(BUNDLED)
    assert bundled.check is not None
    assert set(bundled.check["corruptions"]) == set(ALL)
    assert bundled.check_result_of("fid") == "passed"
    assert bundled.check_result_of("kid") == "failed: noise, jpeg"  # their weakest severities, 8 grey levels and quality 30
    assert bundled.check["reference_name"] == "fashion_mnist:test"
    assert {result["n"] for name, result in bundled.check["corruptions"].items() if name != "missing classes"} == {2000}
    assert all(result["ranked"]["fid"] for result in bundled.check["corruptions"].values())
