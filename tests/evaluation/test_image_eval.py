import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphabar.data import image_set as image_set_module
from alphabar.evaluation import floor as floor_module
from alphabar.evaluation.fid import frechet
from alphabar.evaluation.floor import real_images
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.kid import kid, median_distance
from alphabar.evaluation.score import PROTOCOL, Difference, ProtocolError, Score
from alphabar.features.stats import FeatureStats
from tests.fixtures.sets import Linear, image_set, stripes

RECORD = {"sampler": "ddim", "eta": 0.0, "steps": 10, "nfe": 10.0, "seed": 3, "first_index": 0, "n": 60, "model": "abc"}


@dataclass
class FakeSamples:
    images: np.ndarray
    record: dict[str, Any]


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 9, 12, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def evaluator(linear: Linear) -> ImageEval:
    return ImageEval(linear, stripes(300, 0), floor_images=stripes(200, 1))


def test_values_are_those_of_the_parts(evaluator: ImageEval, linear: Linear) -> None:
    images = noise(60, 0)
    x, y = linear.features(images), linear.features(stripes(300, 0).pixels)
    fid, other = evaluator.score(images, metrics=("fid", "kid"))
    assert (fid.metric, other.metric) == ("fid", "kid")
    want = frechet(FeatureStats.of(x, "e"), FeatureStats.of(y, "e"))
    assert fid.value == pytest.approx(want, rel=1e-9)
    assert other.value == pytest.approx(kid(x, y).value, rel=1e-5)
    assert evaluator.fid(images) == fid
    assert evaluator.kid(images) == other
    assert (fid.n, fid.n_reference, fid.floor_n) == (60, 300, 60)
    assert fid.extractor == linear.fingerprint
    assert fid.preprocessing == linear.preprocessing
    assert set(fid.versions) >= {"alphabar", "torch", "numpy"}


def test_kid_with_the_gaussian_kernel_states_its_bandwidth(evaluator: ImageEval, linear: Linear) -> None:
    images = noise(60, 0)
    (score,) = evaluator.score(images, metrics=("kid_rbf",))
    y = linear.features(stripes(300, 0).pixels)
    assert score.options == {"bandwidth": median_distance(y)}
    assert score.value == pytest.approx(kid(linear.features(images), y, bandwidth=median_distance(y)).value, rel=1e-4)
    assert score.interval and score.interval[0] < score.value < score.interval[1] and abs(score.floor) < score.value / 4
    other = ImageEval(linear, noise(300, 5), floor_images=stripes(200, 1)).score(images, metrics=("kid_rbf",))[0]
    with pytest.raises(ProtocolError):
        _ = score - other


def test_the_floor_is_low_at_the_same_n_and_the_same_again(evaluator: ImageEval, linear: Linear) -> None:
    fid = evaluator.fid(noise(60, 0))
    assert fid.floor is not None
    assert 0 < fid.floor < 0.2 * fid.value
    again = ImageEval(linear, stripes(300, 0), floor_images=stripes(200, 1)).fid(noise(60, 1))
    assert again.floor == fid.floor
    assert again.floor_seed == 0
    other = ImageEval(linear, stripes(300, 0), floor_images=stripes(200, 1), seed=1).fid(noise(60, 1))
    assert other.floor != fid.floor


def test_the_floor_is_the_mean_over_disjoint_draws(linear: Linear) -> None:
    reference, pool = stripes(300, 0), stripes(200, 1)
    evaluate = ImageEval(linear, reference, floor_images=pool)
    score = evaluate.kid(noise(60, 0))
    order = evaluate.real.floor_order(0)
    draws = [evaluate.real.pool[order[k : k + 60]] for k in (0, 60, 120)]  # 200 images hold three draws of 60
    wanted = [kid(linear.features(d), linear.features(evaluate.real.reference)).value for d in draws]
    assert score.floor_sets == 3
    assert score.floor == pytest.approx(np.mean(wanted), rel=1e-4)


def test_the_floor_falls_with_n(linear: Linear) -> None:
    # FID's bias falls as 1 / n, and so does the floor, which is why it is taken at the n of the score
    def floor(n: int) -> float:
        evals = [ImageEval(linear, stripes(300, 0), floor_images=stripes(200, 1), seed=seed) for seed in range(8)]
        return float(np.mean([e.fid(noise(n, 0)).floor for e in evals]))

    assert floor(10) > 1.5 * floor(150)


def test_the_floor_at_n_does_not_depend_on_what_was_scored_before(linear: Linear) -> None:
    toy, pool = stripes(300, 0), stripes(200, 1)
    rising = ImageEval(linear, toy, floor_images=pool)
    rising.fid(noise(20, 0))
    direct = ImageEval(linear, toy, floor_images=pool)
    assert rising.fid(noise(90, 0)).floor == pytest.approx(direct.fid(noise(90, 0)).floor, rel=1e-6)


def test_features_are_computed_once(evaluator: ImageEval, linear: Linear) -> None:
    evaluator.score(noise(60, 0))
    assert linear.seen == 60 + 300 + 3 * 60  # the pool of 200 holds three floors
    evaluator.score(noise(60, 1))
    assert linear.seen == 60 + 300 + 3 * 60 + 60


def test_uint8_and_floats_score_the_same(evaluator: ImageEval) -> None:
    images = noise(40, 0)
    value = evaluator.fid(images).value
    assert evaluator.fid(images.astype(np.float64) / 255).value == value
    assert evaluator.fid(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).value == value


@pytest.mark.parametrize(
    "images",
    [noise(40, 0).astype(np.float32) / 127.5 - 1, noise(40, 0).astype(np.float32), noise(40, 0).astype(np.float32) / 254],
)
def test_other_ranges_are_refused_with_the_range(evaluator: ImageEval, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"{images.max():.6g}".replace(".", r"\.")):
        evaluator.fid(images)


def test_another_image_size_is_refused(toy_extractor: Any) -> None:
    evaluate = ImageEval(toy_extractor, stripes(100, 0), floor_images=stripes(100, 1))
    with pytest.raises(ValueError, match=r"images of shape \(28, 28, 1\) .* against real ones of \(9, 12, 3\)"):
        evaluate.fid(np.zeros((50, 28, 28, 1), np.uint8))


def test_no_more_images_than_features_is_refused_with_the_number(evaluator: ImageEval) -> None:
    with pytest.raises(ValueError, match=r"4 images are too few for FID: .* 4 features, so it needs at least 8"):
        evaluator.fid(noise(4, 0))
    assert evaluator.fid(noise(8, 0)).n == 8
    assert evaluator.kid(noise(2, 0)).n == 2
    with pytest.raises(ValueError, match="1 images are too few for KID"):
        evaluator.kid(noise(1, 0))
    few = ImageEval(Linear(), stripes(4, 0), floor_images=stripes(9, 1))
    with pytest.raises(ValueError, match="4 reference images are too few"):
        few.fid(noise(50, 0))
    few = ImageEval(Linear(), stripes(9, 0), floor_images=stripes(3, 1))
    with pytest.raises(ValueError, match=r"3 images for the floor .* too few"):
        few.fid(noise(50, 0))


def test_a_short_floor_is_a_warning(linear: Linear) -> None:
    evaluate = ImageEval(linear, stripes(100, 0), floor_images=stripes(30, 1))
    with pytest.warns(UserWarning, match="the floor is taken at 30 images, not at 50"):
        score = evaluate.kid(noise(50, 0))
    assert (score.n, score.floor_n) == (50, 30)
    assert "at 30" in str(score)


# ---- which real images are the floor's


def test_floor_images_that_the_reference_holds_are_left_out() -> None:
    toy = stripes(50, 0)
    real = real_images(toy, np.concatenate([toy.pixels[:10], stripes(20, 1).pixels]))
    assert len(real.pool) == 20
    assert "without 10 that the reference also holds" in real.pool_source
    with pytest.raises(ValueError, match="all 50 floor images are in the reference"):
        real_images(toy, toy.pixels)
    with pytest.raises(ValueError, match="in one shape"):
        real_images(toy, np.zeros((5, 28, 28, 1), np.uint8))


def test_halves_are_by_content_and_share_no_image() -> None:
    toy = stripes(80, 0)
    pixels = np.concatenate([toy.pixels, toy.pixels[:30]])  # duplicates must stay on one side
    real = real_images(pixels)
    order = np.random.default_rng(0).permutation(len(pixels))
    mixed = real_images(pixels[order])
    images = [{a.tobytes() for a in side} for side in (real.reference, real.pool, mixed.reference)]
    assert not images[0] & images[1]
    assert images[0] == images[2]
    assert len(images[0] | images[1]) == 80
    assert abs(len(real.reference) - 55) < 25
    assert real.reference_name.startswith("half of")
    with pytest.raises(ValueError, match="pass floor_images"):
        real_images(np.repeat(toy.pixels[:1], 9, 0))


def test_a_named_test_split_takes_its_floor_from_the_held_out_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from alphabar.data.split import HOLDOUT, holdout

    train = replace(stripes(400, 0), name="fashion_mnist", known=True)
    test = replace(stripes(60, 1), name="fashion_mnist", known=True, split="test")
    sets = {"train": train, "test": test}
    for module in (floor_module, image_set_module):
        monkeypatch.setattr(module, "load", lambda name, split, **reading: sets[split])
    _, heldout = holdout(train.pixels, HOLDOUT)
    for reference in ("fashion_mnist:test", test):
        real = real_images(reference)
        assert real.reference_fingerprint == test.fingerprint
        assert np.array_equal(real.pool, train.pixels[heldout])
        assert "fashion_mnist:train" in real.pool_source
    assert real_images("fashion_mnist:train").reference_name == "half of fashion_mnist:train"
    assert real_images(replace(test, known=False)).halved  # a folder of that name is not the set


# ---- the record


def test_the_record_of_samples_goes_into_the_score(evaluator: ImageEval) -> None:
    for score in (
        evaluator.fid(FakeSamples(noise(60, 0), RECORD)),
        evaluator.fid(noise(60, 0), record=RECORD),
    ):
        assert score.nfe == 10
        assert score.seeds == {"seed": 3, "first_index": 0}
        assert score.sampler is not None
        assert score.sampler["sampler"] == "ddim"
        assert score.sampler["model"] == "abc"
    assert evaluator.fid(noise(60, 0)).nfe is None


def test_json_and_back(evaluator: ImageEval) -> None:
    score = replace(evaluator.fid(FakeSamples(noise(60, 0), RECORD)), interval=(1.0, 2.0))
    text = json.dumps(score.to_json())
    assert Score.from_json(text) == score
    assert Score.from_json(score.to_json()) == score
    with pytest.raises(ValueError, match="no 'valeu'"):
        Score.from_json(score.to_json() | {"valeu": 1})
    with pytest.raises(ValueError, match="incomplete"):
        Score.from_json({"metric": "fid"})


def test_like_scores_subtract(evaluator: ImageEval) -> None:
    a, b = evaluator.fid(FakeSamples(noise(60, 0), RECORD)), evaluator.fid(noise(60, 1))
    difference = a - b
    assert isinstance(difference, Difference)
    assert float(difference) == a.value - b.value
    assert difference.a is a


@pytest.mark.parametrize("name", PROTOCOL)
def test_unlike_scores_do_not_subtract_and_the_field_is_named(evaluator: ImageEval, name: str) -> None:
    a = evaluator.fid(noise(60, 0))
    other = {"metric": "kid", "n": 61, "n_reference": 1, "preprocessing": {}, "options": {"k": 3}}.get(name, "another")
    with pytest.raises(ProtocolError, match=f"different protocols: {name} is") as caught:
        a - replace(a, **{name: other})
    assert caught.value.field == name


def test_scores_of_two_extractors_or_references_do_not_subtract(linear: Linear) -> None:
    images, pool = noise(60, 0), stripes(100, 9)
    a = ImageEval(linear, stripes(100, 0), floor_images=pool).kid(images)
    with pytest.raises(ProtocolError, match="extractor is"):
        a - ImageEval(Linear(seed=1), stripes(100, 0), floor_images=pool).kid(images)
    with pytest.raises(ProtocolError, match="reference is"):
        a - ImageEval(linear, stripes(100, 1), floor_images=pool).kid(images)
    # the same images from a file of another name are the same reference
    renamed = replace(image_set(stripes(100, 0).pixels), name="renamed")
    assert float(a - ImageEval(linear, renamed, floor_images=pool).kid(images)) == 0


def test_trajectory(evaluator: ImageEval) -> None:
    clean, rough = stripes(60, 5).pixels, noise(60, 0)
    half = ((clean.astype(float) + rough) / 2).astype(np.uint8)
    record = RECORD | {"x0_steps": [0, 4, 9]}
    scores = evaluator.trajectory([rough, half, clean], record, metrics=("fid", "kid"))
    assert [s.metric for s in scores[0]] == ["fid", "kid"]
    fids = [fid.value for fid, _ in scores]
    assert fids[0] > fids[1] > fids[2]
    assert [fid.sampler["x0_step"] for fid, _ in scores if fid.sampler] == [0, 4, 9]
    assert scores[0][0].nfe is None
    assert scores[2][0].value == evaluator.fid(clean).value
    with pytest.raises(ValueError, match=r"2 arrays.*names 3"):
        evaluator.trajectory([rough, half], record)


def test_unknown_metric(evaluator: ImageEval) -> None:
    with pytest.raises(ValueError, match="'is' is unknown: use one of fid, fid_infinity"):
        evaluator.score(noise(60, 0), metrics=("is",))


def test_scoring_is_quiet(evaluator: ImageEval, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator.score(noise(60, 0))
    assert capsys.readouterr().err == ""
