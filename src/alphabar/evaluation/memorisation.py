"""Has a model copied its training images? Every generated image beside the training image that is nearest to it, measured
against held-out images, which nobody can have copied.

Two numbers of an image, in features (or pixels):

- distance: to the nearest training image. Its rank among those of held-out images (`rank`) is 0.5 for a perfect model and 1
  for a copier. But it also rises where images are plain: on Fashion-MNIST held-out sneakers, real images all of them, have
  0.75 against all garments, bags 0.25. A model that draws too many plain images, or blurry ones, looks like a copier.
- ratio: that distance over the median of the distances to the `K` nearest training images (Carlini et al. 2023,
  arXiv:2301.13188, sec. 4.2, has the mean). It asks whether one training image is nearer than its neighbourhood is, which
  is what a copy does and a plain image does not: held-out sneakers have 0.46, bags 0.49. The median, and many neighbours,
  so that an image that is in the training set several times counts as copied too, which d1 / d2 would miss.

Copies are few as a rule, so the verdict looks at the tail: how many generated images have a ratio below the q-quantile of
the held-out ones? A perfect model has q of them; a model that copies every twentieth image has 5 % more. Near-duplicates in
the data raise the held-out images' share in the same way, and so cost power but give no false alarm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core.types import Features, Pixels
from alphabar.data.images import to_model
from alphabar.evaluation.estimate import LEVEL, Estimate, normal_quantile
from alphabar.features.stats import as_features, check_finite

if TYPE_CHECKING:
    from PIL.Image import Image

K = 50  # neighbours whose median distance is the scale; Carlini et al. take 50
TAILS = (0.001, 0.01, 0.05)  # quantiles of the held-out images' ratios
TOLERANCE = 0.02  # share of images that may be copies where the verdict is "no sign of copying"
BULK = 0.6  # rank of ratios from which on "no sign of copying" is not said; held-out images of one class reach 0.55
_SPARE = 8  # candidates beyond k, since float32 may put the k-th and its next in the wrong order
_ROWS, _COLUMNS = 1024, 16384  # of a block of products: 64 MiB

Verdict = Literal["copies found", "no sign of copying", "not decided"]


@dataclass(frozen=True)
class Tail:
    """Generated images whose ratio is below the q-quantile of the held-out images' ratios."""

    q: float
    threshold: float
    count: int  # of generated images below it
    share: Estimate  # of generated images below it, at this threshold; exact interval (Clopper & Pearson 1934)
    expected: Estimate  # share of all held-out images, seen or not, below it: k / (m + 1), exact interval
    excess: Estimate  # share - expected, with the uncertainty of both


@dataclass(frozen=True, eq=False)
class Memorisation:
    """What `memorisation` found. Rows: one a generated image, in their order."""

    verdict: Verdict
    reason: str
    rank: Estimate  # P(distance of a generated image < that of a held-out one), ties half; 0.5 at best, 1: all are nearer
    rank_ratio: Estimate  # the same of the ratios
    tails: tuple[Tail, ...]
    copies: Estimate | None  # excess of the tail where most is certain; about the share of images that are copies
    nearest: Int64[Tensor, " n"]  # number of the nearest training image
    distance: Float64[Tensor, " n"]  # to it
    ratio: Float64[Tensor, " n"]  # distance over the local scale, 0..1; 0: a copy
    distance_percentile: Float64[Tensor, " n"]  # 0..100: how many of the held-out images are nearer to theirs
    ratio_percentile: Float64[Tensor, " n"]  # the same of the ratios
    order: Int64[Tensor, " n"]  # generated images by ratio, the most suspicious first
    n_train: int
    n_heldout: int
    heldout_in_train: int  # held-out images at distance 0 from a training image
    k: int

    @property
    def n(self) -> int:
        return len(self.nearest)

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """All but the rows, as plain data."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "rank": self.rank.to_json(),
            "rank_ratio": self.rank_ratio.to_json(),
            "copies": None if self.copies is None else self.copies.to_json(),
            "tails": [
                {"q": t.q, "threshold": t.threshold, "count": t.count}
                | {name: getattr(t, name).to_json() for name in ("share", "expected", "excess")}
                for t in self.tails
            ],
            "n": self.n,
            "n_train": self.n_train,
            "n_heldout": self.n_heldout,
            "heldout_in_train": self.heldout_in_train,
            "k": self.k,
        }


def memorisation(
    *,
    generated: Float[Tensor, "n d"] | NDArray[np.floating],
    train: Float[Tensor, "t d"] | NDArray[np.floating],
    heldout: Float[Tensor, "m d"] | NDArray[np.floating],
    k: int = K,
    tails: Sequence[float] = TAILS,
    tolerance: float = TOLERANCE,
    level: float = LEVEL,
) -> Memorisation:
    """Whether generated images are copies of training images, judged by held-out images that the model never saw.

    generated, train, heldout: features of one extractor, or `pixel_features`. train: of all images that the model was
    trained on and no other (mirrored ones as well, where it was trained on them). heldout: from the same source; some
    thousands, for the 0.1 % tail needs 1,000. k: neighbours of the local scale, at most all training images.
    tails: quantiles of held-out ratios, 0 < q < 1; those with q m < 1 have no threshold and are left out.

    The verdict, with every interval at `level`:
    - "copies found": in some tail more than twice as many generated images as held-out ones (the excess' interval lies
      above the expected share).
    - "no sign of copying": every tail's interval of the excess holds 0 or lies below it, and ends below the expected
      share or below `tolerance`, whichever is larger; and the rank of all ratios is not clearly above `BULK`.
    - "not decided" otherwise: more images, or a look at the sheet of the nearest pairs, may tell.

    A verdict is about copies that the features see: a mirrored or shifted copy may be far away in pixels and near in
    features, or the other way round. The intervals take for granted that images are independent, drawn from one seed each.

    Raises ValueError for unlike widths, fewer than 2 images on any side, k < 2, or NaN and infinity.
    """
    g, t, h = (as_features(f) for f in (generated, train, heldout))
    if not g.shape[1] == t.shape[1] == h.shape[1]:
        raise ValueError(
            f"features {g.shape[1]}, {t.shape[1]} and {h.shape[1]} wide (generated, train, heldout): extract all of them with "
            "the same extractor"
        )
    for name, f in (("generated", g), ("training", t), ("held-out", h)):
        if len(f) < 2:
            raise ValueError(f"{len(f)} {name} image(s): give at least 2")
        check_finite(f)
    if k < 2:
        raise ValueError(f"k = {k}: give at least 2 neighbours, {K} as a rule")
    if bad := [q for q in tails if not 0 < q < 1]:
        raise ValueError(f"a tail of {bad[0]}: give quantiles between 0 and 1, as {TAILS}")
    normal_quantile(level)
    k = min(k, len(t))
    far_g, which = nearest(g, t, k)
    far_h, _ = nearest(h, t, k)
    return from_distances(far_g, which[:, 0], far_h, n_train=len(t), tails=tails, tolerance=tolerance, level=level)


def from_distances(
    generated: Float64[Tensor, "n k"],
    which: Int64[Tensor, " n"],
    heldout: Float64[Tensor, "m k"],
    *,
    n_train: int,
    tails: Sequence[float] = TAILS,
    tolerance: float = TOLERANCE,
    level: float = LEVEL,
) -> Memorisation:
    """`memorisation` of distances that `nearest` has worked out, so that those of the held-out images serve many times.

    which: number of the nearest training image of each generated one.
    """
    d_g, d_h, r_g, r_h = generated[:, 0], heldout[:, 0], _ratio(generated), _ratio(heldout)
    rank_ratio = auc(r_g, r_h, level)
    found = tuple(_tail(q, r_g, r_h, level) for q in tails if int(q * len(r_h)) >= 1)
    verdict, reason, copies = _judge(found, rank_ratio, tolerance, len(r_g), len(r_h))
    return Memorisation(
        verdict=verdict, reason=reason, rank=auc(d_g, d_h, level), rank_ratio=rank_ratio, tails=found, copies=copies,
        nearest=which.clone(), distance=d_g.clone(), ratio=r_g, distance_percentile=_percentile(d_g, d_h),
        ratio_percentile=_percentile(r_g, r_h), order=torch.from_numpy(np.lexsort((d_g.numpy(), r_g.numpy()))),
        n_train=n_train, n_heldout=len(r_h), heldout_in_train=int((d_h == 0).sum()), k=generated.shape[1],
    )  # fmt: skip


def _judge(tails: Sequence[Tail], rank_ratio: Estimate, tolerance: float, n: int, m: int) -> tuple[Verdict, str, Estimate | None]:
    if not tails:
        return "not decided", f"{m} held-out images are too few for any tail: give more, thousands at best", None
    surest = max(tails, key=lambda t: _ends(t.excess)[0])  # speaks most for copies
    told = (
        f"{surest.count} of {n} generated images ({100 * surest.share.value:.3g} %) lie nearer to one training image, for their "
        f"surroundings, than all but {100 * surest.expected.value:.2g} % of the held-out ones"
    )
    if any(_ends(t.excess)[0] > t.expected.value for t in tails):
        return "copies found", told, surest.excess
    none = all(_ends(t.excess)[0] <= 0 and _ends(t.excess)[1] < max(t.expected.value, tolerance) for t in tails)
    if none and _ends(rank_ratio)[0] <= BULK:
        return "no sign of copying", told, surest.excess
    if none:
        told += f"; but as a whole they are nearer to single training images than held-out ones are (rank of ratios {rank_ratio})"
    else:
        told += "; more generated or held-out images would decide it"
    return "not decided", told, surest.excess


def _tail(q: float, generated: Float64[Tensor, " n"], heldout: Float64[Tensor, " m"], level: float) -> Tail:
    """The threshold is the k-th smallest of m held-out ratios, below which a new held-out image falls with a chance that is
    Beta(k, m + 1 - k) distributed, whatever the distribution of ratios (Wilks 1941). The interval of the difference joins
    those of its two parts (MOVER, Zou & Donner 2008; Newcombe 1998)."""
    n, m, miss = len(generated), len(heldout), (1 - level) / 2
    k = int(q * m)
    threshold = float(heldout.kthvalue(k).values)
    x = int((generated < threshold).sum())
    p, low, high = x / n, beta_quantile(x, n - x + 1, miss), beta_quantile(x + 1, n - x, 1 - miss)
    e, least, most = k / (m + 1), beta_quantile(k, m + 1 - k, miss), beta_quantile(k, m + 1 - k, 1 - miss)
    share = Estimate(p, math.sqrt(p * (1 - p) / n), (low, high), level)
    expected = Estimate(e, math.sqrt(e * (1 - e) / (m + 2)), (least, most), level)
    below, above = math.hypot(p - low, most - e), math.hypot(high - p, e - least)
    se = math.hypot(share.se or 0.0, expected.se or 0.0)
    return Tail(q, threshold, x, share, expected, Estimate(p - e, se, (p - e - below, p - e + above), level))


def auc(x: Float64[Tensor, " n"], y: Float64[Tensor, " m"], level: float = LEVEL) -> Estimate:
    """P(x < y) + P(x = y) / 2 (Mann & Whitney 1947) of two independent samples, n and m >= 2.

    Standard error after DeLong, DeLong & Clarke-Pearson 1988; the interval is worked out for the logarithm of the odds, so
    that it stays within 0..1. Where the samples do not overlap there is no variance to be seen: of min(n, m) pairs with no
    image in common all came out one way, which has a chance of (1 - level) / 2 at the interval's end.
    """
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"{len(x)} and {len(y)} numbers: give at least 2 of each")
    v_x, v_y = _above(x, y), 1 - _above(y, x)  # of each x: how many y are above; of each y: how many x are below
    a = float(v_x.mean())
    se = math.sqrt(float(v_x.var() / len(x) + v_y.var() / len(y)))
    if a in (0.0, 1.0):
        end = ((1 - level) / 2) ** (1 / min(len(x), len(y)))
        return Estimate(a, se, (end, 1.0) if a == 1 else (0.0, 1 - end), level)
    odds, half = math.log(a / (1 - a)), normal_quantile(level) * se / (a * (1 - a))
    low, high = (1 / (1 + math.exp(-min(max(z, -700.0), 700.0))) for z in (odds - half, odds + half))
    return Estimate(a, se, (low, high), level)


def _above(x: Tensor, y: Tensor) -> Tensor:
    """Of each x, the share of y above it, those that are equal counting half."""
    y = y.sort().values
    below, up_to = torch.searchsorted(y, x.contiguous()), torch.searchsorted(y, x.contiguous(), right=True)
    return 1 - (below + up_to).double() / (2 * len(y))


def _percentile(x: Tensor, heldout: Tensor) -> Float64[Tensor, " n"]:
    below = torch.searchsorted(heldout.sort().values, x.contiguous())
    return 100 * below.double() / len(heldout)


def _ratio(far: Float64[Tensor, "n k"]) -> Float64[Tensor, " n"]:
    scale = far.quantile(0.5, dim=1)
    return torch.where(scale > 0, far[:, 0] / scale, 0.0)  # a scale of 0: dozens of copies of one image, and this is one


def nearest(queries: Features, train: Float[Tensor, "t d"], k: int) -> tuple[Float64[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """Euclidean distances [n, k] to the k nearest training images, nearest first, and their numbers; on the CPU.

    Products of blocks in float32, of centred features, pick k candidates and a few more, whose distances are then worked out
    in float64 from differences: a copy has distance 0, not the rounding error of |a|^2 - 2 a.b + |b|^2. Memory is a block of
    products and n (k + 8) numbers beyond what came in.
    """
    device = train.device
    queries = queries.detach().to(device)
    train = train.detach()
    n, wanted = len(queries), min(k + _SPARE, len(train))
    starts = range(0, len(train), _COLUMNS)
    centre = torch.stack([train[s : s + _COLUMNS].cpu().double().sum(0) for s in starts]).sum(0) / len(train)

    def centred(rows: Tensor) -> Tensor:
        return (rows.cpu().double() - centre).float().to(device)

    best = torch.empty((n, 0), device=device)
    numbers = torch.empty((n, 0), dtype=torch.int64, device=device)
    for start in starts:
        block = centred(train[start : start + _COLUMNS])
        half = block.square().sum(1) / 2
        values, columns = [], []
        for at in range(0, n, _ROWS):
            rows = slice(at, at + _ROWS)
            scores = torch.addmm(half, centred(queries[rows]), block.T, alpha=-1)  # (|a - b|^2 - |a|^2) / 2
            v, c = scores.topk(min(wanted, len(block)), largest=False)
            v, c = torch.cat([best[rows], v], 1), torch.cat([numbers[rows], c + start], 1)
            v, place = v.topk(min(wanted, v.shape[1]), largest=False)
            values.append(v)
            columns.append(c.gather(1, place))
        best, numbers = torch.cat(values), torch.cat(columns)

    distances = torch.empty((n, k), dtype=torch.float64)
    which = torch.empty((n, k), dtype=torch.int64)
    step = max(1, (1 << 22) // (wanted * train.shape[1]))
    for at in range(0, n, step):
        rows = slice(at, at + step)
        c = numbers[rows].sort(1).values  # of equal distances the smaller number comes first
        off = train[c].cpu().double() - queries[rows].cpu().double()[:, None]
        d, place = off.square().sum(2).sqrt().sort(dim=1, stable=True)
        distances[rows], which[rows] = d[:, :k], c.cpu().gather(1, place)[:, :k]
    return distances, which


def pixel_features(pixels: Pixels) -> Features:
    """Pixels [n, h, w, c] as features [n, c h w], in the model's range: what `memorisation` takes to measure in pixels."""
    return to_model(pixels).flatten(1)


def pairs_sheet(found: Memorisation, generated: NDArray[Any], train: NDArray[Any], n: int = 24, scale: int = 2) -> "Image":
    """The n most suspicious generated images, each with its nearest training image to its right.

    generated, train: pixels (n, h, w, c) of the images that the features belong to, in their order. Captions: distance d
    and ratio r, each with its percentile among the held-out images: 0 % is nearer than all of them.
    Raises ValueError where the numbers of images are not those of `found`.
    """
    from alphabar.data.contact_sheet import contact_sheet, shown

    if len(generated) != found.n or len(train) != found.n_train:
        raise ValueError(
            f"{len(generated)} generated and {len(train)} training images, but features of {found.n} and {found.n_train}: pass "
            "the images that the features were made of"
        )
    if generated.shape[1:] != train.shape[1:]:
        raise ValueError(f"generated images of shape {generated.shape[1:]}, training images of {train.shape[1:]} (h, w, c)")
    top = found.order[:n].numpy()
    left, right = shown(generated[top]), shown(np.asarray(train[found.nearest[top].numpy()]))
    percent_d, percent_r = found.distance_percentile, found.ratio_percentile
    captions = [
        f"d {found.distance[i]:.3g} ({percent_d[i]:.3g} %)  r {found.ratio[i]:.3g} ({percent_r[i]:.3g} %)" for i in top.tolist()
    ]
    pairs = np.stack([left, right], 1).reshape(-1, *left.shape[1:])
    return contact_sheet(pairs, columns=2, scale=scale, captions=captions)


@cache
def beta_quantile(a: int, b: int, p: float) -> float:
    """x with P(Beta(a, b) <= x) = p, for whole a, b >= 0: P(Beta(a, b) <= x) = P(Binomial(a + b - 1, x) >= a).

    0 for a = 0, 1 for b = 0, as the exact interval of a binomial share wants it.
    """
    if a == 0 or b == 0:
        return 0.0 if a == 0 else 1.0
    n = a + b - 1
    # the shorter of the two sums of binomial terms
    upper = a > n // 2
    j = np.arange(a, n + 1) if upper else np.arange(a)
    log_choose = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in j.tolist()])
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        part = float(np.exp(log_choose + j * math.log(x) + (n - j) * math.log1p(-x)).sum())
        chance = part if upper else 1 - part
        low, high = (x, high) if chance < p else (low, x)
    return (low + high) / 2


def _ends(e: Estimate) -> tuple[float, float]:
    return e.interval if e.interval is not None else (-math.inf, math.inf)
