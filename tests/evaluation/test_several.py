from pathlib import Path

import numpy as np
import pytest

from alphabar.evaluation.compare import compare
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import RELATIVE
from alphabar.evaluation.several import SeveralEval
from alphabar.report.figures import draw_card
from tests.fixtures.sets import Linear

EXTRACTORS = (Linear(4, 0), Linear(6, 1), Linear(3, 2))


def population(n: int, seed: int, mean: float = 120.0, spread: float = 20.0) -> np.ndarray:
    """Images of independent pixels, whose linear features are nearly Gaussian."""
    return np.random.default_rng(seed).normal(mean, spread, (n, 4, 4, 1)).clip(0, 255).astype(np.uint8)


def several(extractors: tuple[Linear, ...] = EXTRACTORS, seed: int = 0, n: int = 400) -> SeveralEval:
    return SeveralEval(extractors, population(n, seed), floor_images=population(2000, seed + 1), cache=False)


def test_it_is_the_mean_over_extractors_of_fid_divided_by_the_floor() -> None:
    images = population(300, 9, mean=122)
    measured = several().measure(images, metrics=("kid", "fid"))
    singles = [ImageEval(e, population(400, 0), floor_images=population(2000, 1), cache=False).fid(images) for e in EXTRACTORS]
    found = measured.scores[RELATIVE]
    assert found.value == pytest.approx(np.mean([s.value / s.floor for s in singles if s.floor]), rel=1e-12)
    assert found.floor == 1.0
    assert [next(iter(m.scores.values())) for m in measured.further] == singles[1:]
    assert measured.scores["fid"] == singles[0] and list(measured.scores) == ["kid", "fid", RELATIVE]
    assert RELATIVE not in several().measure(images, metrics=("kid",)).scores


def test_its_interval_for_a_fixed_floor_is_that_of_fid_where_extractors_agree() -> None:
    """Features scaled by 2 and rotated give 4 times every FID, so the ratio and its relative error are those of one extractor."""

    class Doubled(Linear):
        fingerprint = "doubled"

        def features(self, pixels: np.ndarray) -> "np.ndarray":
            return 2 * super().features(pixels)

    measured = several((Linear(4, 0), Doubled(4, 0))).measure(population(300, 9, mean=122), metrics=("fid",))
    fid, both = measured.scores["fid"], measured.scores[RELATIVE]
    assert fid.floor and fid.interval and both.se == pytest.approx(fid.se / fid.floor, rel=1e-4)
    expansion = measured.expansions[RELATIVE].estimate()
    assert expansion.interval == pytest.approx([end / fid.floor for end in fid.interval], rel=1e-4)
    assert both.interval and expansion.interval
    assert both.interval[0] < expansion.interval[0] and both.interval[1] > expansion.interval[1], "the floor's error is added"


@pytest.mark.slow(12)
@pytest.mark.parametrize("mean", [120.0, 123.0])
def test_intervals_hold_the_expected_value(mean: float) -> None:
    scores = [
        several(seed=10_000 + 7 * k).measure(population(300, 50_000 + k, mean), metrics=("fid",)).scores[RELATIVE]
        for k in range(60)
    ]
    expected = float(np.mean([s.value for s in scores]))
    held = sum(s.interval is not None and s.interval[0] <= expected <= s.interval[1] for s in scores)
    assert held >= 52, "95 % of 60 less three standard deviations of a coin; wider than needed is allowed"
    widths = [s.interval[1] - s.interval[0] for s in scores if s.interval]
    assert np.mean(widths) < 14 * np.std([s.value for s in scores]), (
        "6 for FID itself near the floor, times the root of 3 extractors"
    )


def test_sets_are_compared_by_it() -> None:
    evaluator = several()
    good, bad = population(400, 5), population(400, 6, mean=124)
    found = {c.metric: c for c in compare(evaluator, good, bad, metrics=("fid",))}
    assert list(found) == ["fid", RELATIVE] and found[RELATIVE].verdict == "better"
    assert {c.verdict for c in compare(evaluator, good, good, metrics=("fid",))} == {"the same images"}


def test_too_few_images_for_any_extractor_are_known_beforehand() -> None:
    evaluator = several((Linear(4, 0), Linear(15, 1)))
    able, why = evaluator.scorable(12, ("kid", "fid"))
    assert able == ("kid",) and "15 features" in why["fid"]
    with pytest.raises(ValueError, match="two or more that differ"):
        several((Linear(4, 0), Linear(4, 0)))


def test_the_card_has_a_panel_of_it(tmp_path: Path) -> None:
    images = population(300, 9)
    scores = tuple(several().measure(images, metrics=("fid", "kid")).scores.values())
    assert draw_card(scores, images, tmp_path / "card.png").stat().st_size > 1000
