"""A loss that pulls feature statistics of generated images to those of real ones: the Fréchet distance, with a gradient.

Watson et al. 2022 (arXiv:2202.05830) fit samplers by such a loss on single batches. The distance of a batch of a hundred is
mostly bias, so here it is that of a few thousand images: the present batch has gradients, those before it are remembered.
"""

from collections import deque
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from alphabar.core.types import Features, Images
from alphabar.features.stats import FeatureStats


@runtime_checkable
class Embeds(Protocol):
    """An extractor through which gradients flow: images NCHW in [-1, 1] -> features."""

    dim: int
    fingerprint: str

    def embed(self, x: Images, /) -> Features: ...


class FrechetPull:
    """|m - m_r|^2 + tr(C + C_r - 2 (C_r^{1/2} C C_r^{1/2})^{1/2}) of the last `remember` images against real ones.

    extractor: its `embed` has gradients. real: statistics of the real images' features. crop: pixels to cut from each side.
    The value has the gradient of the present batch: with G = I - C_r^{1/2} (C_r^{1/2} C C_r^{1/2})^{-1/2} C_r^{1/2}, that of
    an image with features f is 2 (m - m_r) . f + (f - m)^T G (f - m), the distance's first-order expansion.
    Raises ValueError for statistics of another extractor.
    """

    def __init__(self, extractor: Embeds, real: FeatureStats, *, remember: int = 4096, crop: int = 0) -> None:
        if real.extractor != extractor.fingerprint:
            raise ValueError(f"statistics of extractor {real.extractor}, but the extractor is {extractor.fingerprint}")
        self.extractor = extractor
        self.crop = crop
        self.remember = remember
        self.mean = real.mean.double().cpu()
        self.cov = real.cov.double().cpu()
        values, vectors = torch.linalg.eigh(self.cov)
        self.root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        self._before: deque[Tensor] = deque()

    def forget(self) -> None:
        """Remembers nothing any more."""
        self._before.clear()

    def add(self, images: Images) -> None:
        """Features of images that are remembered without a gradient: to begin with some thousand of them."""
        with torch.no_grad():
            self._push(self._embed(images).detach())

    def __call__(self, images: Images, rows: Sequence[int] = ()) -> Tensor:
        f = self._embed(images)
        self._push(f.detach())
        m, c, values, vectors = self._spectrum()
        inner = self.root @ (vectors / values.sqrt()) @ vectors.T @ self.root
        g = (torch.eye(len(m), dtype=torch.float64) - inner).to(f)
        off = f - m.to(f)
        first = 2 * (m - self.mean).to(f)
        slope = (f @ first + ((off @ g) * off).sum(1)).mean()
        out: Tensor = slope - slope.detach() + self._value(m, c, values).to(f)
        return out

    def distance(self) -> float:
        """That of all images remembered. Raises ValueError for fewer than two."""
        if sum(len(b) for b in self._before) < 2:
            raise ValueError("a distance needs at least two images: add some")
        m, c, values, _ = self._spectrum()
        return float(self._value(m, c, values))

    def _spectrum(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and covariance of what is remembered, and eigenvalues and eigenvectors of C_r^{1/2} C C_r^{1/2}."""
        known = torch.cat(list(self._before)).double().cpu()
        m, c = known.mean(0), known.T.cov()
        values, vectors = torch.linalg.eigh(self.root @ c @ self.root)
        return m, c, values.clamp_min(float(values[-1]) * 1e-14), vectors  # rounding leaves none that are 0 or below

    def _value(self, m: Tensor, c: Tensor, values: Tensor) -> Tensor:
        return (m - self.mean).square().sum() + (c + self.cov).diagonal().sum() - 2 * values.sqrt().sum()

    def _embed(self, images: Images) -> Features:
        k = self.crop
        x = images.clamp(-1, 1)[..., k : images.shape[-2] - k, k : images.shape[-1] - k]
        return self.extractor.embed(x.contiguous(memory_format=torch.channels_last))

    def _push(self, f: Tensor) -> None:
        self._before.append(f)
        while len(self._before) > 1 and sum(len(b) for b in self._before) - len(self._before[0]) >= self.remember:
            self._before.popleft()
