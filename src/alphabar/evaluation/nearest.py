"""Nearest training images in feature space, exact for copies."""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from alphabar.core.types import Features

SPARE = 8  # candidates in addition to k, because float32 may exchange the k-th and its successor
ROWS, COLUMNS = 1024, 16384  # of a block of products: 64 MiB


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
