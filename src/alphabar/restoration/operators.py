"""Linear operators A of measurements y = A x0 + sigma_y * noise, frozen values with forward, adjoint and singular values.

Every operator but `Pair` knows its singular value decomposition A = U S V^T through fast transforms, with z = V^T x:
`analyse` (x -> z), `synthesise` (z -> V z, without the directions that A does not see) and `rotate` (y -> U^T y).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from alphabar.core.types import Images, Measured

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey: ITU-R BT.601, as Pillow converts
_WIDTHS = 4  # a Gaussian is cut off at four standard deviations


class Operator(ABC):
    """A linear function of images (b, c, h, w). Measurements have four axes too."""

    @abstractmethod
    def forward(self, x: Images) -> Measured:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Measured) -> Images:
        """A^T y, so that <A x, y> = <x, A^T y> for all x and y."""

    def rows(self, rows: Tensor) -> "Operator":
        """The operator of some images of the batch, where each image has its own."""
        return self


class Spectral(Operator):
    """An operator whose singular values are known.

    Attributes:
        s: singular values in the shape of z, or one that broadcasts to it, float64; they may be 0, or negative where U has the
            sign.
    """

    s: Tensor

    @abstractmethod
    def analyse(self, x: Images) -> Measured:
        """z = V^T x."""

    @abstractmethod
    def synthesise(self, z: Measured) -> Images:
        """V z."""

    def rotate(self, y: Measured) -> Measured:
        """U^T y."""
        return y

    def unrotate(self, u: Measured) -> Measured:
        """U u."""
        return u

    def forward(self, x: Images) -> Measured:
        return self.unrotate(self.s.to(x) * self.analyse(x))

    def adjoint(self, y: Measured) -> Images:
        return self.synthesise(self.s.to(y) * self.rotate(y))


@dataclass(frozen=True, eq=False)
class Mask(Spectral):
    """Keeps some pixels; the others are 0 in y. keep: 1 where a pixel is measured, else 0, (1 or b, 1 or c, h, w)."""

    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.ndim != 4 or not bool(((self.keep == 0) | (self.keep == 1)).all()):
            raise ValueError(f"a mask of shape {tuple(self.keep.shape)}: give 0 and 1 with four axes, as (1, 1, height, width)")

    @property
    def s(self) -> Tensor:  # type: ignore[override]
        return self.keep.double()

    def analyse(self, x: Images) -> Measured:
        return x * self.keep.to(x)

    def synthesise(self, z: Measured) -> Images:
        return z * self.keep.to(z)

    def rows(self, rows: Tensor) -> "Mask":
        return self if len(self.keep) == 1 else Mask(self.keep[rows.to(self.keep.device)])


def identity() -> Mask:
    """All pixels, for images that are only noisy."""
    return Mask(torch.ones(1, 1, 1, 1))


@dataclass(frozen=True, eq=False)
class BoxAverage(Spectral):
    """Means over squares of factor x factor pixels: an image whose sides are 1 / factor as long."""

    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor = {self.factor}: give a whole number from 1, by which the sides are divided")

    @property
    def s(self) -> Tensor:  # type: ignore[override]
        return torch.tensor(1 / self.factor, dtype=torch.float64)  # the mean of f^2 pixels has gain 1 / f on a unit vector

    def analyse(self, x: Images) -> Measured:
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            h, w = x.shape[-2:]
            raise ValueError(f"factor {self.factor} does not divide images of {h} x {w}: give a factor of both sides")
        return functional.avg_pool2d(x, self.factor) * self.factor

    def synthesise(self, z: Measured) -> Images:
        return z.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1) / self.factor


@dataclass(frozen=True, eq=False)
class Grey(Spectral):
    """A weighted mean of the channels, one channel. weights: one for each channel; `LUMA` for RGB."""

    weights: tuple[float, ...] = LUMA

    @property
    def _unit(self) -> Tensor:
        w = torch.tensor(self.weights, dtype=torch.float64)
        return w.div(w.square().sum().sqrt()).reshape(1, -1, 1, 1)

    @property
    def s(self) -> Tensor:  # type: ignore[override]
        return torch.tensor(self.weights, dtype=torch.float64).square().sum().sqrt()

    def analyse(self, x: Images) -> Measured:
        if x.shape[1] != len(self.weights):
            raise ValueError(f"{x.shape[1]} channels and {len(self.weights)} weights: give one weight a channel")
        return (x * self._unit.to(x)).sum(1, keepdim=True)

    def synthesise(self, z: Measured) -> Images:
        return z * self._unit.to(z)


@dataclass(frozen=True, eq=False)
class Blur(Spectral):
    """A Gaussian blur with reflecting borders (the edge pixel is repeated), which has real, orthogonal eigenvectors.

    Attributes:
        width: standard deviation of the Gaussian in pixels.
        size: (height, width) of the images.
    """

    width: float
    size: tuple[int, int]
    values: Tensor = field(init=False, repr=False)
    vectors: tuple[Tensor, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"blur = {self.width}: give the standard deviation of the Gaussian in pixels, as 1.5")
        (rows, v), (columns, w) = (torch.linalg.eigh(_blur_matrix(self.width, n)) for n in self.size)
        object.__setattr__(self, "values", rows[:, None] * columns)
        object.__setattr__(self, "vectors", (v, w))

    @property
    def s(self) -> Tensor:  # type: ignore[override]
        return self.values

    def analyse(self, x: Images) -> Measured:
        if tuple(x.shape[-2:]) != self.size:
            raise ValueError(
                f"a blur of images of {self.size[0]} x {self.size[1]}, and one of {x.shape[-2]} x {x.shape[-1]} came"
            )
        v, w = (m.to(x) for m in self.vectors)
        return v.T @ x @ w

    def synthesise(self, z: Measured) -> Images:
        v, w = (m.to(z) for m in self.vectors)
        return v @ z @ w.T

    def rotate(self, y: Measured) -> Measured:
        return self.analyse(y)  # A is symmetric: U = V

    def unrotate(self, u: Measured) -> Measured:
        return self.synthesise(u)


def _blur_matrix(width: float, n: int) -> Tensor:
    """The blur of a row of n pixels as a symmetric matrix."""
    reach = max(1, round(_WIDTHS * width))
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets / width).double() ** 2)
    places = (torch.arange(n)[:, None] + offsets) % (2 * n)  # reflection has period 2 n
    places = torch.where(places < n, places, 2 * n - 1 - places)
    return torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, places, (weights / weights.sum()).expand(n, -1))


@dataclass(frozen=True, eq=False)
class Padded(Spectral):
    """An operator on the middle of images that a model was trained on with a border of `crop` pixels, which is not measured."""

    inner: Spectral
    crop: int

    @property
    def s(self) -> Tensor:  # type: ignore[override]
        return self.inner.s

    def analyse(self, x: Images) -> Measured:
        k = self.crop
        return self.inner.analyse(x[..., k : x.shape[-2] - k, k : x.shape[-1] - k])

    def synthesise(self, z: Measured) -> Images:
        return functional.pad(self.inner.synthesise(z), [self.crop] * 4)

    def rotate(self, y: Measured) -> Measured:
        return self.inner.rotate(y)

    def unrotate(self, u: Measured) -> Measured:
        return self.inner.unrotate(u)

    def rows(self, rows: Tensor) -> "Padded":
        return Padded(self.inner.rows(rows), self.crop)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Pair(Operator):
    """Your own operator, a pair of functions, checked at once to be linear and each other's adjoint.

    Args:
        apply: x (b, c, h, w) -> A x, with four axes.
        transpose: y -> A^T y, in the shape of x.
        shape: (c, h, w) of the images.

    Raises:
        ValueError: for functions that are not linear, or not each other's adjoint, in float64 to 1e-6 of their size.

    >>> half = Pair(lambda x: x[..., ::2], lambda y: torch.stack([y, 0 * y], -1).flatten(-2), (1, 4, 4))
    >>> half.forward(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 4, 2])
    """

    apply: Callable[[Tensor], Tensor]
    transpose: Callable[[Tensor], Tensor]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        draws = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, 1, *self.shape, generator=draws, dtype=torch.float64)
        with torch.no_grad():
            image, other, both = self.apply(a), self.apply(b), self.apply(2 * a - 3 * b)
            if image.ndim != 4 or len(image) != 1:
                raise ValueError(
                    f"the operator gave shape {tuple(image.shape)} for one image: wanted (1, channels, rows, columns)"
                )
            if (off := _relative(both, 2 * image - 3 * other)) > 1e-6:
                raise ValueError(
                    f"the operator is not linear: A(2a - 3b) is {off:.2g} off 2 A(a) - 3 A(b), relative to its size; a constant "
                    "that is added, clipping and rounding are not linear: leave them out"
                )
            y = torch.randn(image.shape, generator=draws, dtype=torch.float64)
            back = self.transpose(y)
        if back.shape != a.shape:
            raise ValueError(f"the adjoint gave shape {tuple(back.shape)}: wanted that of the images, {tuple(a.shape)}")
        left, right = float((image * y).sum()), float((a * back).sum())
        if abs(left - right) > 1e-6 * max(float(image.norm() * y.norm()), 1e-300):
            raise ValueError(f"the adjoint does not fit: <A x, y> = {left:.6g}, and <x, A^T y> = {right:.6g} for random x and y")

    def forward(self, x: Images) -> Measured:
        return self.apply(x)

    def adjoint(self, y: Measured) -> Images:
        return self.transpose(y)


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-300))
