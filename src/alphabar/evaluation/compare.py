"""Is one set of images better than another? Differences with intervals against the same real images, and a verdict in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alphabar.core.files import Record
from alphabar.evaluation.estimate import LEVEL, Estimate, Expansion, difference, normal_quantile, variance_parts
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import HIGHER, METRICS, TITLES, Measured, Score

POWER = 0.8  # probability that the recommended number of images decides, if the difference is the one found


@dataclass(frozen=True)
class Comparison(Record):
    """One metric of two sets of images, a and b, under one protocol."""

    metric: str
    a: Score
    b: Score
    difference: Estimate  # a - b, with an interval for this metric alone
    paired: bool  # image k of both sets was made from the same noise
    verdict: str  # of a: "better", "worse", "not decided" or "the same images"; by `holm` over all metrics compared
    more: int | None  # images per side that decide it with probability `POWER`; None: decided, or no number would
    words: str  # all of that in a sentence


def compare(
    evaluator: ImageEval, a: Any, b: Any, *, names: tuple[str, str] = ("A", "B"),
    records: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] = (None, None), metrics: Sequence[str] = METRICS,
    level: float = LEVEL,
) -> list[Comparison]:  # fmt: skip
    """Compares images a with images b by every metric, against the same real images.

    Sets whose records have the same seed and the same first image were made from the same noise. They are compared image by
    image, so that what both share cancels and the interval is narrower.

    Args:
        evaluator: Holds the real images and the extractor.
        a: Images, as `ImageEval.score` takes them.
        b: As many images.
        names: Names of a and b in sentences.
        records: Sampling records of a and b, where they are not Samples.
        metrics: Some of `alphabar.evaluation.score.METRICS`; all by default.
        level: Of the intervals, and of the verdicts of all metrics together.

    Raises:
        ProtocolError: For different numbers of images; its `field` names what differs.

    >>> import numpy as np
    >>> pixels = np.random.default_rng(0).integers(0, 256, (96, 28, 28, 1), dtype=np.uint8)
    >>> evaluator = ImageEval("bundled", pixels[:32], floor_images=pixels[32:64], cache=False)
    >>> print(compare(evaluator, pixels[64:80], pixels[64:80], metrics=["kid"])[0].words)
    KID: A and B score the same
    """
    first, second = (evaluator.measure(images, record, metrics) for images, record in zip((a, b), records, strict=True))
    return compare_measured(first, second, names=names, level=level)


def compare_measured(a: Measured, b: Measured, *, names: tuple[str, str] = ("A", "B"), level: float = LEVEL) -> list[Comparison]:
    """`compare` for results of `ImageEval.measure` by one evaluator."""
    same = a.images == b.images
    gaps = {}
    for metric in a.scores:
        first, second = a.scores[metric], b.scores[metric]
        gap, paired = float(first - second), same_noise(first, second)  # raises ProtocolError for different protocols
        found = difference(a.expansions[metric], b.expansions[metric], paired=paired, level=level)
        gaps[metric] = Estimate(gap, found.se, found.interval, found.level, found.note)
    decided = holm([abs(e.value) / e.se if e.se else 0.0 for e in gaps.values()], level)
    return [
        _comparison(a.scores[m], b.scores[m], a.expansions[m], b.expansions[m], gaps[m], yes, same, len(gaps), names)
        for m, yes in zip(gaps, decided, strict=True)
    ]


def holm(sizes: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of several differences, in standard errors, are significant at a level that holds for all of them together.

    Equally good sets are then declared different by any metric in at most 5 % of comparisons, however many metrics are looked at
    (Holm 1979: the largest must pass at the level for k tests, the next at that for k - 1, and so on, to the first that fails).

    >>> holm([2.1, 4.0, 0.3])
    [False, True, False]
    """
    decided = [False] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda k: -sizes[k])
    for place, k in enumerate(order):
        if sizes[k] <= normal_quantile(1 - (1 - level) / (len(sizes) - place)):
            break
        decided[k] = True
    return decided


def same_noise(a: Score, b: Score) -> bool:
    """Whether image k of both was made from the same noise, according to their records."""
    return a.n == b.n and a.seeds is not None and a.seeds == b.seeds and "seed" in a.seeds


def _comparison(
    a: Score, b: Score, x: Expansion, y: Expansion, found: Estimate, decided: bool, same: bool, looks: int, names: tuple[str, str]
) -> Comparison:
    gap, paired = found.value, same_noise(a, b)

    def result(verdict: str, words: str, more: int | None = None) -> Comparison:
        return Comparison(a.metric, a, b, found, paired, verdict, more, f"{TITLES[a.metric]}: {words}")

    if same:
        return result("the same images", f"{names[0]} and {names[1]} score the same")
    if gap == 0 and found.se == 0:  # as for two precisions of 0: images that all count alike give no standard error
        found = Estimate(gap, None, None, found.level, f"no interval: both score {a.value:.4g}, and every image counts alike")
    if found.interval is None or found.se is None:
        return result("not decided", f"not decided; {found.note}")
    low, high = found.interval
    interval = f"{gap:+.3g} [{low:+.3g}, {high:+.3g}]"
    if decided:
        verdict = "better" if (gap > 0) == (a.metric in HIGHER) else "worse"
        return result(verdict, f"{names[0]} is {verdict} than {names[1]}, {interval}")
    strictest = 1 - (1 - found.level) / looks  # of Holm's steps
    # where only a part of the images is compared in pairs, more images would change nothing
    more = None if x.n < a.n else _images_needed(x, y, gap, paired, strictest)
    if more is None:
        rest = f"no number of images would decide it against {a.n_reference:,} real ones"
    else:
        rest = f"about {more - a.n:,} more images on either side would, if the difference is the one found"
    if not low <= 0 <= high:
        rest = f"0 lies outside the interval, but not far enough for one of {looks} metrics looked at; {rest}"
    return result("not decided", f"not decided, {interval}; {rest}", more)


def _images_needed(x: Expansion, y: Expansion, gap: float, paired: bool, level: float) -> int | None:
    """Images per side at which the difference found would be (z of the level + z of the power) standard errors."""
    wanted = (abs(gap) / (normal_quantile(level) + normal_quantile(2 * POWER - 1))) ** 2
    own, shared, second = variance_parts(x, y, paired=paired)
    target = wanted - shared  # the reference's part stays, however many images are made
    if gap == 0 or target <= 0:
        return None
    # at n / r images, own is multiplied by r and the second order by about r^2
    r = (math.sqrt(own**2 + 4 * second * target) - own) / (2 * second) if second > 0 else target / max(own, 1e-300)
    if r < 1e-7:
        return None
    return max(math.ceil(x.n / r), x.n + 1)
