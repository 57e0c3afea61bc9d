"""Is one set of images better than another? Differences with intervals against the same real images, and a verdict in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from alphabar.evaluation.estimate import LEVEL, Estimate, Expansion, difference, normal_quantile, variance_parts
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.measured import Measured
from alphabar.evaluation.score import HIGHER, METRICS, TITLES, Score

POWER = 0.8  # the chance that the number of images named will decide, if the difference is the one found


@dataclass(frozen=True)
class Comparison:
    """One metric of two sets of images, a and b, under one protocol.

    difference: a - b, with an interval of this metric alone. verdict: "better", "worse" (a than b, as this metric has it),
    "not decided", or "the same images"; by `holm` over all metrics compared. paired: image k of both was made from the same
    noise. more: where it is not decided, how many images on either side would decide it with a chance of 80 %, were the
    difference the one found; None where it is decided, or where the reference's own chance is too large for any number.
    words: all that in a sentence.
    """

    metric: str
    a: Score
    b: Score
    difference: Estimate
    paired: bool
    verdict: str
    more: int | None
    words: str

    def to_json(self) -> dict[str, Any]:
        """Plain data, for json.dumps."""
        out = asdict(self)
        return {**out, "a": self.a.to_json(), "b": self.b.to_json()}


def compare(
    evaluate: ImageEval,
    a: Any,
    b: Any,
    *,
    names: tuple[str, str] = ("A", "B"),
    records: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] = (None, None),
    metrics: Sequence[str] = METRICS,
    level: float = LEVEL,
) -> list[Comparison]:
    """a against b by every metric, on the same real images. Images and records: as `ImageEval.score` takes them.

    Sets whose records say the same seed and the same first image were made from the same noise: they are compared image by
    image, which leaves only what differs. Raises ProtocolError, which names the field, for unlike numbers of images.
    """
    first, second = (evaluate.measure(images, record, metrics) for images, record in zip((a, b), records, strict=True))
    return compare_measured(first, second, names=names, level=level)


def compare_measured(a: Measured, b: Measured, *, names: tuple[str, str] = ("A", "B"), level: float = LEVEL) -> list[Comparison]:
    """`compare` of what one ImageEval has measured."""
    same = a.images == b.images
    gaps = {}
    for metric in a.scores:
        one, other = a.scores[metric], b.scores[metric]
        gap, paired = float(one - other), same_noise(one, other)  # the difference of unlike protocols is refused
        found = difference(a.expansions[metric], b.expansions[metric], paired=paired, level=level)
        gaps[metric] = Estimate(gap, found.se, found.interval, found.level, found.note)
    decided = holm([abs(e.value) / e.se if e.se else 0.0 for e in gaps.values()], level)
    return [
        _compared(a.scores[m], b.scores[m], a.expansions[m], b.expansions[m], gaps[m], yes, same, len(gaps), names)
        for m, yes in zip(gaps, decided, strict=True)
    ]


def holm(sizes: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of several differences, given in standard errors, are decided at a level that holds for all of them together.

    Sets of equal worth are then told apart by any metric in at most 5 % of comparisons, however many metrics are looked at
    (Holm 1979: the largest must pass for k looks, the next for k - 1, and so on; none after one that does not).
    """
    decided = [False] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda k: -sizes[k])
    for place, k in enumerate(order):
        if sizes[k] <= normal_quantile(1 - (1 - level) / (len(sizes) - place)):
            break
        decided[k] = True
    return decided


def same_noise(a: Score, b: Score) -> bool:
    """Whether image k of both was made from the same noise, as their records say."""
    return a.n == b.n and a.seeds is not None and a.seeds == b.seeds and "seed" in a.seeds


def _compared(
    a: Score, b: Score, x: Expansion, y: Expansion, found: Estimate, decided: bool, same: bool, looks: int, names: tuple[str, str]
) -> Comparison:
    gap, paired = found.value, same_noise(a, b)
    title = TITLES[a.metric]
    if same:
        return Comparison(
            a.metric, a, b, found, paired, "the same images", None, f"{title}: {names[0]} and {names[1]} score the same"
        )
    if gap == 0 and found.se == 0:  # as two precisions of 0: what every image shares says nothing of how sure that is
        found = Estimate(gap, None, None, found.level, f"no interval: both score {a.value:.4g}, and every image counts alike")
    if found.interval is None or found.se is None:
        return Comparison(a.metric, a, b, found, paired, "not decided", None, f"{title}: not decided; {found.note}")
    low, high = found.interval
    interval = f"{gap:+.3g} [{low:+.3g}, {high:+.3g}]"
    if not decided:
        # of more images than pairs are looked at, more would change nothing
        more = None if x.n < a.n else _more(x, y, gap, paired, 1 - (1 - found.level) / looks)  # the strictest of Holm's steps
        if more is None:
            rest = f"no number of images would decide it against {a.n_reference:,} real ones"
        else:
            rest = f"about {more - a.n:,} more images on either side would, if the difference is the one found"
        if not low <= 0 <= high:
            rest = f"0 lies outside the interval, but not far enough for one of {looks} metrics looked at; {rest}"
        return Comparison(a.metric, a, b, found, paired, "not decided", more, f"{title}: not decided, {interval}; {rest}")
    verdict = "better" if (gap > 0) == (a.metric in HIGHER) else "worse"
    return Comparison(
        a.metric, a, b, found, paired, verdict, None, f"{title}: {names[0]} is {verdict} than {names[1]}, {interval}"
    )


def _more(x: Expansion, y: Expansion, gap: float, paired: bool, level: float) -> int | None:
    """Images a side at which the difference found would be (z of the level + z of the power) standard errors."""
    wanted = (abs(gap) / (normal_quantile(level) + normal_quantile(2 * POWER - 1))) ** 2
    own, shared, second = variance_parts(x, y, paired=paired)
    target = wanted - shared  # the reference's part stays, however many images are made
    if gap == 0 or target <= 0:
        return None
    # at n / r images own falls as r and the second order about as r^2
    r = (math.sqrt(own**2 + 4 * second * target) - own) / (2 * second) if second > 0 else target / max(own, 1e-300)
    if r < 1e-7:
        return None
    return max(math.ceil(x.n / r), x.n + 1)
