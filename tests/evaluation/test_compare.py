"""Better, worse or not decided; what is unlike is refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alphabar.evaluation.compare import compare, compare_measured, holm, same_noise
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import HIGHER, METRICS, ProtocolError
from tests.fixtures.sets import Linear, stripes

RECORD = {"sampler": "ddim", "seed": 3, "first_index": 0, "nfe": 10.0}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def evaluator() -> ImageEval:
    return ImageEval(Linear(6), stripes(900, 0), floor_images=stripes(500, 1))


def noisy(images: np.ndarray, sd: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(images + rng.normal(0, sd, images.shape), 0, 255).astype(np.uint8)


def test_a_clear_difference_has_a_verdict_either_way_round(evaluator: ImageEval) -> None:
    good = stripes(400, 5).pixels
    bad = np.full_like(good, 128) // 2 + good // 2  # half the contrast
    for c in compare(evaluator, good, bad, names=("good", "bad"), metrics=("fid", "fid_infinity", "kid", "coverage")):
        assert c.verdict == "better", c.words
        assert "good is better than bad" in c.words
        assert (c.difference.value > 0) == (c.metric in HIGHER)
        assert c.difference.value == c.a.value - c.b.value
        assert c.more is None
    for c in compare(evaluator, bad, good, metrics=("fid", "kid")):
        assert c.verdict == "worse"
        json.dumps(c.to_json())


@pytest.mark.slow
def test_two_halves_of_one_set_are_rarely_decided(evaluator: ImageEval) -> None:
    """At 95 % every twentieth comparison decides by chance: at most 4 of 20 do, but for one run in 700."""
    wrong: dict[str, int] = dict.fromkeys(METRICS, 0)
    for k in range(20):
        half = stripes(600, 100 + k).pixels
        for c in compare(evaluator, half[:300], half[300:]):
            wrong[c.metric] += c.verdict != "not decided"
            if c.verdict == "not decided" and c.more is not None:
                assert c.more > 300
    assert max(wrong.values()) <= 4, wrong


def test_at_the_number_of_images_named_the_difference_found_is_as_many_standard_errors_as_a_power_of_80_percent_takes() -> None:
    evaluator = ImageEval(Linear(6), stripes(8000, 0), floor_images=stripes(6000, 1))
    clean = stripes(12_000, 7).pixels
    other = np.rint((clean - 128.0) * 0.945 + 128).astype(np.uint8)
    (few,) = compare(evaluator, clean[:800], other[800:1600], metrics=("fid",))
    assert few.verdict == "not decided"
    assert few.more is not None
    assert 1000 < few.more <= 6000
    n = few.more
    (many,) = compare(evaluator, clean[:n], other[n : 2 * n], metrics=("fid",))
    wanted = 1.95996 + 0.84162  # normal quantiles of 97.5 % and 80 %
    assert abs(few.difference.value) / many.difference.se == pytest.approx(wanted, rel=0.3)  # type: ignore[operator]


def test_the_same_noise_is_compared_image_by_image(evaluator: ImageEval) -> None:
    clean = stripes(400, 5).pixels
    slightly = noisy(clean, 3)
    paired = compare(evaluator, clean, slightly, records=(RECORD, RECORD), metrics=("fid", "kid", "precision"))
    apart = compare(evaluator, clean, slightly, records=(RECORD, {**RECORD, "seed": 4}), metrics=("fid", "kid", "precision"))
    for p, q in zip(paired, apart, strict=True):
        assert p.paired
        assert not q.paired
        assert p.difference.value == q.difference.value
        assert p.difference.se < q.difference.se  # type: ignore[operator]
    (same,) = compare(evaluator, clean, clean.copy(), records=(RECORD, RECORD), metrics=("kid",))
    assert same.verdict == "the same images"


def test_what_is_unlike_is_refused_by_name(evaluator: ImageEval) -> None:
    images = stripes(400, 5).pixels
    with pytest.raises(ProtocolError, match=r"n is 400 on the left and 300 on the right") as error:
        compare(evaluator, images, images[:300], metrics=("kid",))
    assert error.value.field == "n"
    a = evaluator.measure(images, metrics=("kid",))
    other = ImageEval(Linear(6, seed=1), stripes(900, 0), floor_images=stripes(500, 1)).measure(images, metrics=("kid",))
    with pytest.raises(ProtocolError, match="extractor") as error:
        compare_measured(a, other)
    assert error.value.field == "extractor"
    reference = ImageEval(Linear(6), stripes(900, 2), floor_images=stripes(500, 1)).measure(images, metrics=("kid",))
    with pytest.raises(ProtocolError, match="reference is"):
        compare_measured(a, reference)


def test_without_intervals_nothing_is_decided() -> None:
    class Twice(Linear):  # a feature that repeats another: the covariance is singular
        def features(self, pixels: np.ndarray) -> Tensor:
            f = super().features(pixels)
            return torch.cat([f[:, :-1], f[:, :1]], 1)

    evaluator = ImageEval(Twice(6), stripes(300, 0), floor_images=stripes(100, 1))
    found = {c.metric: c for c in compare(evaluator, stripes(90, 5).pixels, noisy(stripes(90, 6).pixels, 60))}
    assert found["fid"].verdict == "not decided"
    assert "no interval: a covariance is singular" in found["fid"].words
    assert found["fid"].a.interval is None
    assert found["fid"].a.note is not None
    assert found["kid"].a.interval is not None


def test_pairs_are_known_by_their_records(evaluator: ImageEval) -> None:
    def score(record: dict[str, Any] | None, n: int = 100) -> Any:
        return evaluator.kid(stripes(n, 5).pixels, record)

    a = score(RECORD)
    assert same_noise(a, score({**RECORD, "sampler": "ddpm"}))
    assert not same_noise(a, score({**RECORD, "first_index": 100}))
    assert not same_noise(a, score(None))
    assert not same_noise(score(None), score(None))
    assert not same_noise(a, replace(a, n=50))


def test_images_without_structure_against_others_are_compared_by_what_can(evaluator: ImageEval) -> None:
    """One side has a singular covariance: FID has no verdict and says why, and KID has one."""
    images = stripes(200, 5).pixels
    found = {c.metric: c for c in compare(evaluator, np.full_like(images, 128), images, metrics=("fid", "fid_infinity", "kid"))}
    for metric in ("fid", "fid_infinity"):
        assert found[metric].verdict == "not decided"
        assert "singular" in (found[metric].difference.note or "")
        assert found[metric].difference.value == found[metric].a.value - found[metric].b.value
    assert found["kid"].verdict == "worse"


@pytest.mark.parametrize("cache", [None, False])
def test_equal_scores_are_not_equal_images(cache: bool | None) -> None:
    """Two unlike sets, both far from all real images, have precision 0 and no spread: that decides nothing."""
    evaluator = ImageEval(Linear(6), stripes(300, 0), floor_images=stripes(200, 1), cache=cache)
    dark, bright = np.clip(noisy(stripes(100, 5).pixels, 9) // 40, 0, 255), 255 - noisy(stripes(100, 6).pixels, 9) // 40
    for c in compare(evaluator, dark, bright, metrics=("precision", "coverage")):
        assert c.a.value == c.b.value == 0
        assert c.verdict == "not decided"
        assert c.difference.interval is None
        assert "every image counts alike" in (c.difference.note or "")
    for c in compare(evaluator, dark, dark.copy(), metrics=("precision", "kid")):  # by their content, records or not
        assert c.verdict == "the same images"


def test_verdicts_hold_for_all_metrics_together() -> None:
    """Holm's steps by hand: 2.3 standard errors are enough alone, and not among seven."""
    assert holm([2.3]) == [True]
    assert holm([2.3, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == [False] * 7
    # 0.05 / 3 two-sided is 2.394, / 2 2.241, / 1 1.960: each is tried only after all larger ones have passed
    assert holm([2.0, 2.5, 2.3]) == [True, True, True]
    assert holm([2.0, 2.3, 2.3]) == [False, False, False]
    assert holm([1.9, 2.5, 2.3]) == [False, True, True]
    rng = np.random.default_rng(0)
    wrong = [any(holm(np.abs(rng.standard_normal(7)).tolist())) for _ in range(4000)]
    assert abs(np.mean(wrong) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 4000)
