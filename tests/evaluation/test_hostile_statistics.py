"""Statistics, measurements and images that are damaged or made by other programs: each ends in one clear error."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alphabar.core.npz import read_npz
from alphabar.evaluation.fid import frechet
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.kid import kid
from alphabar.evaluation.prdc import prdc
from alphabar.evaluation.score import load_measured, sampling_fields, save_measured
from alphabar.features.stats import FeatureStats
from tests import typecheck
from tests.features.test_hostile_extractors import IMAGES, NO_IMAGES, toy
from tests.fixtures.mutations import faults, faults_of, tree_mutations

PIXELS = np.concatenate([IMAGES, 255 - IMAGES, IMAGES[::-1] // 2, IMAGES // 3])
NAN = float("nan")


@pytest.fixture
def unchecked() -> None:
    """The types that the tests check are passed wrong here."""
    typecheck.off()


@pytest.fixture(scope="module")
def evaluator() -> ImageEval:
    return ImageEval(toy(), PIXELS[:24], floor_images=PIXELS[24:36], cache=False)


# ---- mean and covariance, as other programs write them


def skewed(scatter: Tensor) -> Tensor:
    out = scatter.clone()
    out[0, 1] += 50
    return out


STATISTICS: dict[str, tuple[Callable[[FeatureStats], tuple[Any, Any]], str]] = {
    "asymmetric": (lambda s: (s.mean, skewed(s.scatter)), "is not symmetric"),
    "NaN in the mean": (lambda s: (s.mean * NAN, s.scatter), "NaN or infinity in mean or scatter"),
    "infinity": (lambda s: (s.mean, s.scatter / 0), "NaN or infinity in mean or scatter"),
    "a mean of another size": (lambda s: (s.mean[:3], s.scatter), r"mean of shape \(3,\), scatter of \(4, 4\)"),
    "not square": (lambda s: (s.mean, s.scatter[:3]), r"scatter of \(3, 4\): wanted \(d,\) and \(d, d\)"),
    "a vector": (lambda s: (s.mean, s.mean), r"scatter of \(4,\)"),
    "a matrix": (lambda s: (s.scatter, s.scatter), r"mean of shape \(4, 4\)"),
    "float32": (lambda s: (s.mean.float(), s.scatter.float()), "wanted tensors of float64"),
    "arrays": (lambda s: (s.mean.numpy(), s.scatter.numpy()), "wanted tensors of float64"),
    "negative": (lambda s: (s.mean, -s.scatter), "below 0"),
    "not positive": (lambda s: (s.mean, torch.eye(4).double() * 2 - torch.ones(4, 4).double()), "eigenvalue"),
}  # fmt: skip


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", STATISTICS)
def test_statistics_that_no_features_have(kind: str) -> None:
    good = FeatureStats.of(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), "e")
    change, reason = STATISTICS[kind]
    bad = FeatureStats("e", 50, *change(good))
    for pair in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match=reason):
            frechet(*pair)
    with pytest.raises(ValueError, match="1 image"):
        frechet(FeatureStats("e", 1, good.mean, good.scatter), good)


FEATURES: dict[str, Any] = {
    "none": torch.zeros(0, 4), "a vector": torch.zeros(4), "whole numbers": torch.zeros(9, 4).long(),
    "another width": torch.randn(50, 3),
    "nothing": None, "a list": [[1.0]], "NaN": torch.full((9, 4), NAN), "infinity": torch.full((9, 4), float("inf")),
}  # fmt: skip


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", FEATURES)
def test_features_that_cannot_be_compared(kind: str) -> None:
    good, bad = torch.randn(50, 4), FEATURES[kind]
    for measure in (kid, lambda x, y: prdc(real=y, generated=x, k=3)):
        for x, y in ((bad, good), (good, bad)):
            with pytest.raises(ValueError, match=r"\w"):
                measure(x, y)


# ---- files of measurements


@pytest.mark.slow(5)
@pytest.mark.usefixtures("unchecked")
def test_mutated_measurements(evaluator: ImageEval, tmp_path: Path) -> None:
    file = tmp_path / "m.npz"
    save_measured(file, evaluator.measure(PIXELS[36:], None, ("fid", "kid")))
    arrays = read_npz(file)
    about = json.loads(str(arrays.pop("about")))

    def use() -> None:
        found = load_measured(file)
        for expansion in found.expansions.values():
            expansion.estimate()
        assert all(str(score) for score in found.scores.values())

    def packed(changed: Any) -> bytes:
        out = io.BytesIO()
        np.savez(out, about=np.array(json.dumps(changed)), **arrays)
        return out.getvalue()

    assert faults(file.read_bytes(), file, use) == []
    cases = ((what, packed(changed)) for what, changed in tree_mutations(about, 200))
    assert faults_of(cases, file, use) == []
    arrays["kid.influence_x"] = arrays["kid.influence_x"].astype(complex)
    file.write_bytes(packed(about))
    with pytest.raises(ValueError, match=r"m\.npz"):
        use()


# ---- from Python


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [k for k in NO_IMAGES if k not in ("channels first", "in colour", "of another size")])
def test_what_is_no_image_is_not_scored(kind: str, evaluator: ImageEval) -> None:
    images = NO_IMAGES[kind]
    for use in (lambda: evaluator.kid(images), lambda: ImageEval(toy(), images, cache=False)):
        with pytest.raises((ValueError, FileNotFoundError), match=r"\w"):
            use()


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_extractor_scores_nothing() -> None:
    for other in (None, 3, torch.nn.Flatten()):
        with pytest.raises(ValueError, match="give a name, a path, or what load_extractor returns"):
            ImageEval(other, PIXELS, cache=False)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("record", [3, "x", {"seed": [1]}, {"seed": "x"}, {"nfe": "x"}, {"first_index": 1.5}, {"n": -1}])
def test_records_that_no_sampling_wrote(record: Any) -> None:
    with pytest.raises(ValueError, match="record"):
        sampling_fields(record)
