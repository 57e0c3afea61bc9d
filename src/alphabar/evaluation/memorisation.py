"""Detects copies of training images among generated images, by comparison with held-out images.

Held-out images cannot have been copied, so they show what distances to expect. Two numbers per image, in features (or pixels):

- distance: to the nearest training image. Its rank among those of held-out images (`rank`) is 0.5 for a perfect model and 1 for
  one that copies. But it also rises for plain images: on Fashion-MNIST held-out sneakers, real images all of them, have 0.75
  against all garments, bags 0.25. A model that generates too many plain or blurred images looks like one that copies.
- ratio: that distance over the median of the distances to the `K` nearest training images (Carlini et al. 2023,
  arXiv:2301.13188, sec. 4.2, use the mean). It is small where one training image is much nearer than the surrounding ones, as for
  a copy and not for a plain image: held-out sneakers have 0.46, bags 0.49. With the median and many neighbours, an image that is
  in the training set several times also counts as copied, which d1 / d2 would miss.

Usually few images are copies, so the verdict is about the tail: how many generated images have a ratio below the q-quantile of
the held-out ones? A perfect model has a share q of them; a model that copies every twentieth image has 5 % more. Near-duplicates
in the data raise the held-out images' share in the same way: they reduce the power, and cause no false alarm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core.files import Record
from alphabar.core.types import Features, Pixels
from alphabar.data.images import to_model
from alphabar.evaluation.estimate import LEVEL, Estimate, normal_quantile
from alphabar.features.stats import as_features, check_finite

if TYPE_CHECKING:
    from PIL.Image import Image

SPARE = 8  # candidates in addition to k, because float32 may exchange the k-th and its successor
ROWS, COLUMNS = 1024, 16384  # of a block of products: 64 MiB
K = 50  # neighbours whose median distance is the scale; Carlini et al. take 50
TAILS = (0.001, 0.01, 0.05)  # quantiles of the held-out images' ratios
TOLERANCE = 0.02  # share of images that may be copies where the verdict is "no sign of copying"
BULK = 0.6  # largest rank of the ratios for "no sign of copying"; held-out images of one class reach 0.55

Verdict = Literal["copies found", "no sign of copying", "not decided"]


@dataclass(frozen=True)
class Tail:
    """Generated images whose ratio is below the q-quantile of the held-out images' ratios."""

    q: float
    threshold: float
    count: int  # of generated images below the threshold
    share: Estimate  # count / n; exact interval (Clopper & Pearson 1934)
    expected: Estimate  # share of the held-out images' distribution below the threshold: k / (m + 1), exact interval
    excess: Estimate  # share - expected, with the uncertainty of both


@dataclass(frozen=True, eq=False)
class Memorisation(Record):
    """What `memorisation` found. Tensors have one entry per generated image, in the order given."""

    verdict: Verdict
    reason: str
    rank: Estimate  # P(distance of a generated image < that of a held-out one), ties half; 0.5: as held-out images, 1: all nearer
    rank_ratio: Estimate  # the same of the ratios
    tails: tuple[Tail, ...]
    copies: Estimate | None  # excess of the most significant tail: about the share of images that are copies
    nearest: Int64[Tensor, " n"]  # number of the nearest training image
    distance: Float64[Tensor, " n"]  # to that image
    ratio: Float64[Tensor, " n"]  # distance over the local scale, 0..1; 0: a copy
    distance_percentile: Float64[Tensor, " n"]  # 0..100: share of held-out images with a smaller distance
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
        """Everything except the tensors, as plain data."""
        return super().to_json() | {"n": self.n}


def memorisation(
    *, generated: Float[Tensor, "n d"] | NDArray[np.floating], train: Float[Tensor, "t d"] | NDArray[np.floating],
    heldout: Float[Tensor, "m d"] | NDArray[np.floating], k: int = K, tails: Sequence[float] = TAILS,
    tolerance: float = TOLERANCE, level: float = LEVEL,
) -> Memorisation:  # fmt: skip
    """Tests whether generated images are copies of training images, by comparison with held-out images.

    The verdict, with every interval at `level`:

    - "copies found": in some tail there are more than twice as many generated as held-out images (the interval of the excess lies
      above the expected share).
    - "no sign of copying": in every tail the interval of the excess contains 0 or lies below it, and ends below the expected
      share or below `tolerance`, whichever is larger; and the rank of all ratios is not significantly above `BULK`.
    - "not decided" otherwise: score more images, or look at the nearest pairs (`pairs_sheet`).

    Only copies that the features recognise are found: a mirrored or shifted copy may be far away in pixels and near in features,
    or the reverse. The intervals assume independent images, one seed each.

    Args:
        generated: Features of generated images [n, d], or their `pixel_features`.
        train: Features of exactly the images that the model was trained on (with mirrored ones, where it was trained on them).
        heldout: Features of images from the same source that were not trained on; thousands, because the 0.1 % tail needs 1,000.
        k: Neighbours whose median distance is the scale, at most all training images.
        tails: Quantiles q of the held-out ratios, 0 < q < 1; those with q m < 1 are left out.
        tolerance: Largest excess share for "no sign of copying".
        level: Of every interval.

    Raises:
        ValueError: For features of different widths, fewer than 2 images on any side, k < 2, or features that are not finite.

    >>> x = torch.randn(700, 4, generator=torch.Generator().manual_seed(0))
    >>> memorisation(generated=x[:200], train=x[:500], heldout=x[500:]).verdict
    'copies found'
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
        raise ValueError(f"tail {bad[0]}: give quantiles between 0 and 1, as {TAILS}")
    normal_quantile(level)  # raises for an invalid level
    k = min(k, len(t))
    far_g, which = nearest(g, t, k)
    far_h, _ = nearest(h, t, k)
    return from_distances(far_g, which[:, 0], far_h, n_train=len(t), tails=tails, tolerance=tolerance, level=level)


def from_distances(
    generated: Float64[Tensor, "n k"], which: Int64[Tensor, " n"], heldout: Float64[Tensor, "m k"], *, n_train: int,
    tails: Sequence[float] = TAILS, tolerance: float = TOLERANCE, level: float = LEVEL,
) -> Memorisation:  # fmt: skip
    """`memorisation` from distances that `nearest` computed, so that those of the held-out images can be used many times.

    Args:
        generated: Distances of generated images to their k nearest training images, nearest first.
        which: Number of the nearest training image of each generated one.
        heldout: Distances of held-out images, likewise.
        n_train: Number of training images.
        tails: This and the rest: as for `memorisation`.
    """
    d_g, d_h, r_g, r_h = generated[:, 0], heldout[:, 0], _ratio(generated), _ratio(heldout)
    rank_ratio = auc(r_g, r_h, level)
    found = tuple(_tail(q, r_g, r_h, level) for q in tails if int(q * len(r_h)) >= 1)
    verdict, reason, copies = _verdict(found, rank_ratio, tolerance, len(r_g), len(r_h))
    return Memorisation(
        verdict=verdict, reason=reason, rank=auc(d_g, d_h, level), rank_ratio=rank_ratio, tails=found, copies=copies,
        nearest=which.clone(), distance=d_g.clone(), ratio=r_g, distance_percentile=_percentile(d_g, d_h),
        ratio_percentile=_percentile(r_g, r_h), order=torch.from_numpy(np.lexsort((d_g.numpy(), r_g.numpy()))),
        n_train=n_train, n_heldout=len(r_h), heldout_in_train=int((d_h == 0).sum()), k=generated.shape[1],
    )  # fmt: skip


def _verdict(
    tails: Sequence[Tail], rank_ratio: Estimate, tolerance: float, n: int, m: int
) -> tuple[Verdict, str, Estimate | None]:
    """The verdict, its reason, and the excess of the most significant tail."""
    if not tails:
        return "not decided", f"{m} held-out images are too few for any tail: give more, thousands at best", None
    top = max(tails, key=lambda t: _ends(t.excess)[0])
    finding = (
        f"{top.count} of {n} generated images ({100 * top.share.value:.3g} %) are nearer to one training image, relative to its "
        f"surroundings, than all but {100 * top.expected.value:.2g} % of the held-out ones"
    )
    if any(_ends(t.excess)[0] > t.expected.value for t in tails):
        return "copies found", finding, top.excess
    none = all(_ends(t.excess)[0] <= 0 and _ends(t.excess)[1] < max(t.expected.value, tolerance) for t in tails)
    if none and _ends(rank_ratio)[0] <= BULK:
        return "no sign of copying", finding, top.excess
    if none:
        finding += f"; but as a whole they are nearer to single training images than held-out ones (rank of ratios {rank_ratio})"
    else:
        finding += "; more generated or held-out images would decide it"
    return "not decided", finding, top.excess


def _tail(q: float, generated: Float64[Tensor, " n"], heldout: Float64[Tensor, " m"], level: float) -> Tail:
    """The threshold is the k-th smallest of m held-out ratios.

    A new held-out image falls below it with a probability that is Beta(k, m + 1 - k) distributed, whatever the distribution of
    ratios (Wilks 1941). The interval of the difference combines those of its two parts (MOVER, Zou & Donner 2008; Newcombe 1998).
    """
    n, m, miss = len(generated), len(heldout), (1 - level) / 2
    k = int(q * m)
    threshold = float(heldout.kthvalue(k).values)
    x = int((generated < threshold).sum())
    p, low, high = x / n, _beta_quantile(x, n - x + 1, miss), _beta_quantile(x + 1, n - x, 1 - miss)
    e, least, most = k / (m + 1), _beta_quantile(k, m + 1 - k, miss), _beta_quantile(k, m + 1 - k, 1 - miss)
    share = Estimate(p, math.sqrt(p * (1 - p) / n), (low, high), level)
    expected = Estimate(e, math.sqrt(e * (1 - e) / (m + 2)), (least, most), level)
    below, above = math.hypot(p - low, most - e), math.hypot(high - p, e - least)
    se = math.hypot(share.se or 0.0, expected.se or 0.0)
    return Tail(q, threshold, x, share, expected, Estimate(p - e, se, (p - e - below, p - e + above), level))


def auc(x: Float64[Tensor, " n"], y: Float64[Tensor, " m"], level: float = LEVEL) -> Estimate:
    """P(x < y) + P(x = y) / 2 (Mann & Whitney 1947) of two independent samples, n and m >= 2.

    Standard error of DeLong, DeLong & Clarke-Pearson 1988; the interval is computed for the logarithm of the odds, so that it
    stays within 0..1. Samples that do not overlap have an estimated variance of 0: there the end of the interval is the
    probability at which min(n, m) independent pairs all come out the same way with a chance of (1 - level) / 2.
    """
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"{len(x)} and {len(y)} numbers: give at least 2 of each")
    v_x, v_y = _above(x, y), 1 - _above(y, x)  # of each x: the share of y above it; of each y: the share of x below it
    a = float(v_x.mean())
    se = math.sqrt(float(v_x.var() / len(x) + v_y.var() / len(y)))
    if a in (0.0, 1.0):
        end = ((1 - level) / 2) ** (1 / min(len(x), len(y)))
        return Estimate(a, se, (end, 1.0) if a == 1 else (0.0, 1 - end), level)
    odds, half = math.log(a / (1 - a)), normal_quantile(level) * se / (a * (1 - a))
    low, high = (1 / (1 + math.exp(-min(max(z, -700.0), 700.0))) for z in (odds - half, odds + half))
    return Estimate(a, se, (low, high), level)


def _above(x: Tensor, y: Tensor) -> Tensor:
    """Of each x, the share of y above it; equal ones count half."""
    y = y.sort().values
    below, up_to = torch.searchsorted(y, x.contiguous()), torch.searchsorted(y, x.contiguous(), right=True)
    return 1 - (below + up_to).double() / (2 * len(y))


def _percentile(x: Tensor, heldout: Tensor) -> Float64[Tensor, " n"]:
    below = torch.searchsorted(heldout.sort().values, x.contiguous())
    return 100 * below.double() / len(heldout)


def _ratio(far: Float64[Tensor, "n k"]) -> Float64[Tensor, " n"]:
    scale = far.quantile(0.5, dim=1)
    return torch.where(scale > 0, far[:, 0] / scale, 0.0)  # a scale of 0: one of dozens of copies of one image


def pixel_features(pixels: Pixels) -> Features:
    """Pixels [n, h, w, c] as features [n, c h w], in the model's range: for `memorisation` in pixels."""
    return to_model(pixels).flatten(1)


def pairs_sheet(found: Memorisation, generated: NDArray[Any], train: NDArray[Any], n: int = 24, scale: int = 2) -> "Image":
    """The n most suspicious generated images, each with its nearest training image to its right.

    Captions give distance d and ratio r, each with its percentile among the held-out images: 0 % is nearer than all of them.

    Args:
        found: Of these images.
        generated: Pixels [n, h, w, c] of the images that the features belong to, in their order.
        train: Pixels of the training images, likewise.
        n: Number of pairs.
        scale: Enlargement of the pixels.

    Raises:
        ValueError: Where the numbers of images are not those of `found`, or shapes differ.
    """
    from alphabar.data.contact_sheet import contact_sheet, levels_of, shown, shown_note

    if len(generated) != found.n or len(train) != found.n_train:
        raise ValueError(
            f"{len(generated)} generated and {len(train)} training images, but features of {found.n} and {found.n_train}: pass "
            "the images that the features were made of"
        )
    if generated.shape[1:] != train.shape[1:]:
        raise ValueError(f"generated images of shape {generated.shape[1:]}, training images of {train.shape[1:]} (h, w, c)")
    top = found.order[:n].numpy()
    nearest = np.asarray(train[found.nearest[top].numpy()])
    levels = levels_of(nearest)
    left, right = shown(generated[top], levels), shown(nearest, levels)
    percent_d, percent_r = found.distance_percentile, found.ratio_percentile
    captions = [
        f"d {found.distance[i]:.3g} ({percent_d[i]:.3g} %)  r {found.ratio[i]:.3g} ({percent_r[i]:.3g} %)" for i in top.tolist()
    ]
    pairs = np.stack([left, right], 1).reshape(-1, *left.shape[1:])
    return contact_sheet(pairs, columns=2, scale=scale, captions=captions, note=shown_note(nearest, levels))


def _beta_quantile(a: int, b: int, p: float) -> float:
    """x with P(Beta(a, b) <= x) = p; 0 for a = 0 and 1 for b = 0, as the exact interval of a binomial share needs."""
    from scipy.special import betaincinv  # imported here, as it costs half a second

    return 0.0 if a == 0 else 1.0 if b == 0 else float(betaincinv(a, b, p))


def _ends(e: Estimate) -> tuple[float, float]:
    return e.interval if e.interval is not None else (-math.inf, math.inf)


def nearest(queries: Features, train: Float[Tensor, "t d"], k: int) -> tuple[Float64[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """Euclidean distances to the k nearest training images, nearest first, and the numbers of these images.

    Float32 products of centred features, block by block, select the k candidates and a few more. Their distances are then
    computed in float64 from differences: a copy has distance 0, not the rounding error of |a|^2 - 2 a.b + |b|^2. Memory is one
    block of products and n (k + 8) numbers in addition to the arguments.

    Args:
        queries: Features [n, d].
        train: Features [t, d], t >= k.
        k: Number of neighbours.

    Returns:
        Distances [n, k] and numbers [n, k], both on the CPU.
    """
    device = train.device
    queries = queries.detach().to(device)
    train = train.detach()
    n, wanted = len(queries), min(k + SPARE, len(train))
    starts = range(0, len(train), COLUMNS)
    centre = torch.stack([train[s : s + COLUMNS].cpu().double().sum(0) for s in starts]).sum(0) / len(train)

    def centred(rows: Tensor) -> Tensor:
        return (rows.cpu().double() - centre).float().to(device)

    best = torch.empty((n, 0), device=device)
    numbers = torch.empty((n, 0), dtype=torch.int64, device=device)
    for start in starts:
        block = centred(train[start : start + COLUMNS])
        half = block.square().sum(1) / 2
        values, columns = [], []
        for at in range(0, n, ROWS):
            rows = slice(at, at + ROWS)
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
