"""Copies are found, other images are not, and intervals have their coverage: on real garments, and against scipy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial import cKDTree

from alphabar.data.images import to_model
from alphabar.evaluation.memorisation import (
    Tail,
    _tail,
    auc,
    from_distances,
    memorisation,
    nearest,
    pairs_sheet,
    pixel_features,
)
from alphabar.features.load import load_extractor
from alphabar.sampling.sample import sample
from tests.fixtures.exact import FiniteDenoiser

ASSETS = Path(__file__).parents[2] / "src" / "alphabar" / "assets"


def f64(values):
    return torch.as_tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def garments():
    """Real images, shuffled: 1,000 training images and 2,000 held-out images."""
    with np.load(ASSETS / "fashion_mnist_test.npz", allow_pickle=False) as file:
        images = file["images"][np.random.default_rng(0).permutation(10_000)]
    return images[:1000], images[1000:3000]


@pytest.fixture(scope="module")
def copies(garments):
    """Samples of a model that fits 1,000 images perfectly: its probability flow, in 12 network calls."""
    return sample(FiniteDenoiser(to_model(garments[0])), 400, sampler="ddim", steps=12, seed=3, progress=False).images


# --- the statistics ----------------------------------------------------------------------------------------------------


def test_rank_is_mann_whitney_with_ties_half():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, 70).astype(float), rng.integers(2, 12, 50).astype(float)
    value = auc(f64(x), f64(y)).value
    assert value == pytest.approx(1 - stats.mannwhitneyu(x, y).statistic / (70 * 50), rel=1e-12)
    assert value > 0.5  # x is the smaller one
    assert auc(f64(y), f64(x)).value == pytest.approx(1 - value)


def test_rank_has_delongs_standard_error():
    """By its definition, the covariance of kernels over all pairs, and by leaving one image out at a time."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1, 60), rng.normal(0.4, 2, 45)
    pairs = (x[:, None] < y[None]).astype(float)
    by_definition = np.sqrt(pairs.mean(1).var(ddof=1) / 60 + pairs.mean(0).var(ddof=1) / 45)
    assert auc(f64(x), f64(y)).se == pytest.approx(by_definition, rel=1e-12)
    left_x = np.array([np.delete(pairs, i, 0).mean() for i in range(60)])
    left_y = np.array([np.delete(pairs, j, 1).mean() for j in range(45)])
    jackknife = np.sqrt(59**2 / 60 * left_x.var(ddof=1) + 44**2 / 45 * left_y.var(ddof=1))
    assert auc(f64(x), f64(y)).se == pytest.approx(jackknife, rel=1e-9)


@pytest.mark.parametrize(("shift", "n", "m"), [(0.0, 200, 1000), (1.0, 100, 400), (2.5, 300, 100)])
def test_interval_of_the_rank_covers(shift, n, m):
    """Normal samples `shift` apart: P(x < y) = Phi(shift / sqrt 2)."""
    rng = np.random.default_rng(7)
    truth = stats.norm.cdf(shift / 2**0.5)
    hits = 0
    for _ in range(1500):
        low, high = auc(f64(rng.normal(0, 1, n)), f64(rng.normal(shift, 1, m))).interval
        hits += low <= truth <= high
    assert 0.93 <= hits / 1500 <= 0.97


def test_rank_of_samples_that_do_not_overlap():
    low, high = auc(f64(np.arange(20.0)), f64(np.arange(100.0, 190))).interval
    assert high == 1 and stats.binom.sf(19, 20, low) == pytest.approx(0.025)
    assert auc(f64(np.arange(100.0, 190)), f64(np.arange(20.0))).interval == (0.0, pytest.approx(1 - low))


@pytest.mark.parametrize(("q", "power", "n", "m"), [(0.05, 1.0, 500, 2000), (0.01, 2.0, 1000, 1000), (0.001, 1.5, 1000, 3000)])
def test_interval_of_the_excess_covers(q, power, n, m):
    """Held-out ratios uniform, generated ones u^power: below a threshold c are c^(1 / power) of them, and c of the held-out
    ones. Two exact intervals joined cover at least what is stated."""
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(1000):
        tail = _tail(q, f64(rng.random(n) ** power), f64(rng.random(m)), 0.95)
        truth = tail.threshold ** (1 / power) - tail.threshold
        hits += tail.excess.interval[0] <= truth <= tail.excess.interval[1]
    assert hits / 1000 >= 0.945


def test_share_and_expectation_of_a_tail():
    tail = _tail(0.01, f64(np.linspace(0, 0.2, 400)), f64(np.linspace(0, 1, 1000)), 0.95)
    assert isinstance(tail, Tail) and tail.threshold == pytest.approx(9 / 999)  # the 10th of 1,000
    assert tail.count == int((np.linspace(0, 0.2, 400) < 9 / 999).sum()) == 18
    exact = stats.binomtest(18, 400).proportion_ci(method="exact")
    assert tail.share.interval == (pytest.approx(exact.low), pytest.approx(exact.high))
    assert tail.expected.interval == (
        pytest.approx(stats.beta.ppf(0.025, 10, 991)),
        pytest.approx(stats.beta.ppf(0.975, 10, 991)),
    )


# --- neighbours --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_neighbours_are_scipys(monkeypatch, offset):
    """Over several blocks, and far from the origin, where float32 products of raw features would lose the small distances."""
    monkeypatch.setattr("alphabar.evaluation.memorisation.ROWS", 64)
    monkeypatch.setattr("alphabar.evaluation.memorisation.COLUMNS", 100)
    rng = np.random.default_rng(0)
    train = (rng.normal(size=(730, 12)) + offset).astype(np.float32)
    queries = np.concatenate([(rng.normal(size=(200, 12)) + offset).astype(np.float32), train[:30]])
    distances, which = nearest(torch.from_numpy(queries), torch.from_numpy(train), 7)
    wanted, numbers = cKDTree(train.astype(np.float64)).query(queries.astype(np.float64), 7)
    assert np.allclose(distances, wanted, rtol=1e-12, atol=0) and np.array_equal(which, numbers)
    assert (distances[200:, 0] == 0).all()


def test_of_equal_images_the_first_is_named_and_still_counts_as_copied():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(400, 8)).astype(np.float32)
    train[300:310] = train[5]  # eleven times in the set
    generated = np.concatenate([rng.normal(size=(99, 8)).astype(np.float32), train[5:6]])
    found = memorisation(generated=generated, train=train, heldout=rng.normal(size=(1000, 8)).astype(np.float32))
    assert found.nearest[99] == 5 and found.ratio[99] == 0 and found.order[0] == 99 and found.ratio_percentile[99] == 0


# --- the verdict -------------------------------------------------------------------------------------------------------


def test_samples_of_a_copier_are_found(garments, copies):
    train, heldout = garments
    found = memorisation(generated=pixel_features(copies), train=pixel_features(train), heldout=pixel_features(heldout))
    assert found.verdict == "copies found"
    assert found.rank.interval[0] > 0.99 and found.rank_ratio.interval[0] > 0.99
    assert found.copies.value > 0.9
    assert np.abs(copies.astype(int) - train[found.nearest.numpy()].astype(int)).max() <= 1  # the very images
    assert "of 400 generated images" in str(found)


def test_held_out_images_pass(garments):
    train, heldout = garments
    found = memorisation(
        generated=pixel_features(heldout[:800]), train=pixel_features(train), heldout=pixel_features(heldout[800:])
    )
    assert found.verdict == "no sign of copying"
    assert found.rank.interval[0] <= 0.5 <= found.rank.interval[1]


def test_every_twentieth_a_copy_is_found_by_the_tail_and_not_by_the_rank(garments, copies):
    train, heldout = garments
    some = np.concatenate([heldout[:570], copies[:30]])
    found = memorisation(generated=pixel_features(some), train=pixel_features(train), heldout=pixel_features(heldout[600:]))
    assert found.verdict == "copies found"
    low, high = found.copies.interval
    assert low <= 0.05 <= high and low > 0.02
    assert found.rank.value < 0.6
    assert set(found.order[:30].tolist()) == set(range(570, 600))


@pytest.mark.slow
def test_copies_are_found_in_the_features_of_an_extractor(garments, copies):
    extractor = load_extractor("bundled")
    train, heldout = (extractor.features(p[:1000]) for p in garments)
    some = torch.cat([heldout[:285], extractor.features(copies[:15])])
    assert memorisation(generated=some, train=train, heldout=heldout[300:]).verdict == "copies found"
    alone = memorisation(generated=heldout[:300], train=train, heldout=heldout[300:])
    assert alone.verdict != "copies found"


def test_plain_images_are_no_copies():
    """Images of a narrower distribution than the training set's lie near it without copying: the rank is misled, the
    ratio is not."""
    rng = np.random.default_rng(0)
    train, heldout = rng.normal(size=(3000, 6)), rng.normal(size=(3000, 6))
    found = memorisation(generated=0.7 * rng.normal(size=(1000, 6)), train=train, heldout=heldout)
    assert found.rank.interval[0] > 0.68 and found.rank_ratio.value < 0.56
    assert found.verdict != "copies found"


def test_near_duplicates_in_the_data_give_no_alarm():
    """Every tenth image, seen or not, is nearly one of 50 prototypes."""
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(50, 6))

    def draw(n):
        near = prototypes[rng.integers(0, 50, n)] + 0.01 * rng.normal(size=(n, 6))
        return np.where(rng.random((n, 1)) < 0.1, near, rng.normal(size=(n, 6)))

    found = memorisation(generated=draw(1000), train=draw(2000), heldout=draw(2000))
    assert found.verdict != "copies found"


@pytest.mark.slow
def test_real_against_real_is_no_alarm(garments):
    """Held-out images split in two, 300 ways: an alarm in at most 5 % of them (1 % in fact)."""
    train, heldout = garments
    far, which = nearest(pixel_features(heldout), pixel_features(train[:500]), 50)
    rng, verdicts = np.random.default_rng(0), []
    for _ in range(300):
        order = torch.from_numpy(rng.permutation(2000))
        a, b = order[:600], order[600:]
        verdicts.append(from_distances(far[a], which[a, 0], far[b], n_train=500).verdict)
    assert verdicts.count("copies found") <= 0.05 * 300
    assert verdicts.count("no sign of copying") >= 0.5 * 300


def test_sets_near_single_images_as_a_whole_are_not_cleared():
    """Each ratio is lower than a held-out image's by little: no tail, but not innocent either."""
    rng = np.random.default_rng(0)
    far_h = np.sort(rng.uniform(0.5, 1.5, (2000, 21)), 1)
    far_g = far_h[:1000].copy()
    ratio = far_h[:, 0] / far_h[:, 10]
    lifted = np.sort(ratio)[200:1200]  # above the 5 % tail, below the upper half
    far_g[:, 0] = lifted * far_g[:, 10]
    found = from_distances(f64(far_g), torch.zeros(1000, dtype=torch.int64), f64(far_h), n_train=50)
    assert found.rank_ratio.interval[0] > 0.6
    assert found.verdict == "not decided" and "as a whole" in found.reason


def test_too_few_held_out_images_decide_nothing():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(100, 4))
    found = memorisation(generated=train[:50], train=train, heldout=rng.normal(size=(15, 4)))
    assert found.verdict == "not decided" and "15 held-out images are too few" in found.reason and found.copies is None
    few = memorisation(generated=rng.normal(size=(10, 4)), train=train, heldout=rng.normal(size=(2000, 4)))
    assert few.verdict == "not decided" and "more generated or held-out images" in few.reason


def test_held_out_images_that_were_trained_on_are_counted():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(300, 4))
    heldout = np.concatenate([rng.normal(size=(500, 4)), train[:3]])
    found = memorisation(generated=rng.normal(size=(50, 4)), train=train, heldout=heldout)
    assert found.heldout_in_train == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heldout": np.zeros((9, 3))}, "extract all of them with the same extractor"),
        ({"train": np.zeros((1, 4))}, r"1 training image\(s\): give at least 2"),
        ({"generated": np.full((9, 4), np.nan)}, "NaN or infinity"),
        ({"k": 1}, "give at least 2 neighbours"),
        ({"tails": (0.0,)}, "give quantiles between 0 and 1"),
        ({"level": 95}, "level = 95"),
    ],
)
def test_invalid_arguments_are_refused(change, message):
    sides = {name: np.random.default_rng(0).normal(size=(9, 4)) for name in ("generated", "train", "heldout")}
    with pytest.raises(ValueError, match=message):
        memorisation(**(sides | change))


def test_the_sheet_shows_pairs_in_order(garments, copies):
    train, heldout = garments
    some = np.concatenate([heldout[:50], copies[:5]])
    found = memorisation(generated=pixel_features(some), train=pixel_features(train), heldout=pixel_features(heldout[50:1050]))
    sheet = np.asarray(pairs_sheet(found, some, train, n=8, scale=2))
    images = sheet[:, -(2 * 57 + 1) :]  # two images of 56 pixels and three white lines; captions to their left
    first = found.order[0]
    assert np.array_equal(images[1:57:2, 1:57:2], some[first, ..., 0])
    assert np.array_equal(images[1:57:2, 58:114:2], train[found.nearest[first], ..., 0])
    assert images.shape[0] == 8 * 57 + 1
    with pytest.raises(ValueError, match="pass the images that the features were made of"):
        pairs_sheet(found, some[:9], train)


def test_json_holds_the_summary(garments):
    import json

    train, heldout = garments
    found = memorisation(
        generated=pixel_features(heldout[:100]), train=pixel_features(train[:300]), heldout=pixel_features(heldout[100:600])
    )
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["verdict"] == found.verdict and plain["n"] == 100 and plain["n_train"] == 300
    assert [t["q"] for t in plain["tails"]] == [0.01, 0.05]  # 0.1 % of 500 is less than one image
    assert plain["rank"]["interval"] == list(found.rank.interval)
