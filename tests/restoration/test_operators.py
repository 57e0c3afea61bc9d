"""Operators: adjoint, linear, with orthonormal singular vectors; their values against other libraries and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from alphabar.restoration.operators import Blur, BoxAverage, Grey, Mask, Padded, Pair, identity


@st.composite
def operators(draw):
    """A function that makes an operator, the border around what it takes, and the shape (c, h, w) of images with it."""
    c, factor = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    h, w = (factor * draw(st.integers(1, 5)) for _ in range(2))
    keep = torch.tensor(draw(st.lists(st.booleans(), min_size=h * w, max_size=h * w))).float().reshape(1, 1, h, w)
    weights = tuple(draw(st.lists(st.floats(0.1, 1), min_size=c, max_size=c)))
    width, crop = draw(st.floats(0.2, 4)), draw(st.integers(0, 2))
    make = draw(st.sampled_from([
        lambda: Mask(keep), identity, lambda: BoxAverage(factor), lambda: Grey(weights), lambda: Blur(width, (h, w)),
    ]))  # fmt: skip
    return make, crop, (c, h + 2 * crop, w + 2 * crop)


@settings(max_examples=60, deadline=None)
@given(operators(), st.integers(0, 2**31))
def test_the_adjoint_is_the_adjoint_and_singular_vectors_are_orthonormal(case, seed):
    make, crop, shape = case
    operator = Padded(make(), crop) if crop else make()
    draws = torch.Generator().manual_seed(seed)
    x, other = torch.randn(2, 3, *shape, generator=draws, dtype=torch.float64)
    y = torch.randn(operator.forward(x).shape, generator=draws, dtype=torch.float64)
    assert torch.allclose((operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum(), atol=1e-9)
    assert torch.allclose(operator.forward(2 * x - other), 2 * operator.forward(x) - operator.forward(other), atol=1e-9)
    seen = operator.synthesise(operator.analyse(x))  # V V^T is a projection
    assert torch.allclose(operator.synthesise(operator.analyse(seen)), seen, atol=1e-9)
    assert torch.allclose((seen * other).sum(), (x * operator.synthesise(operator.analyse(other))).sum(), atol=1e-9)
    assert torch.allclose(operator.unrotate(operator.rotate(y)), y, atol=1e-9)  # U is orthogonal
    assert torch.allclose(operator.forward(seen), operator.forward(x), atol=1e-9)  # and A sees nothing else


def test_the_blur_is_that_of_scipy():
    x = np.random.default_rng(0).standard_normal((7, 9))
    mine = Blur(1.3, (7, 9)).forward(torch.from_numpy(x)[None, None])[0, 0].numpy()
    assert np.allclose(mine, ndimage.gaussian_filter(x, 1.3, mode="reflect", truncate=4.0), atol=1e-12)


def test_a_wide_blur_of_a_small_image_is_its_mean():
    x = torch.randn(1, 1, 3, 4, dtype=torch.float64)
    assert torch.allclose(Blur(50.0, (3, 4)).forward(x), x.mean().expand_as(x), atol=1e-3)


def test_averages_and_grey_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert BoxAverage(2).forward(x).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    colour = torch.tensor([1.0, -1.0, 0.5]).reshape(1, 3, 1, 1)
    assert float(Grey().forward(colour)) == pytest.approx(0.299 - 0.587 + 0.5 * 0.114)


def test_each_image_has_its_own_row_of_a_mask():
    keep = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)
    picked = Mask(keep).rows(torch.tensor([1, 1, 0]))
    assert picked.forward(torch.ones(3, 1, 1, 1)).flatten().tolist() == [0, 0, 1]
    assert Padded(Mask(keep), 1).rows(torch.tensor([0])).forward(torch.ones(1, 1, 3, 3)).flatten().tolist() == [1]


def test_your_own_pair_is_checked():
    def rolled(x):
        return x.roll(1, -1)

    Pair(rolled, lambda y: y.roll(-1, -1), (2, 3, 4))
    with pytest.raises(ValueError, match=r"not linear: A\(2a - 3b\).*constant"):
        Pair(lambda x: x + 1, lambda y: y, (1, 3, 4))
    with pytest.raises(ValueError, match="not linear"):
        Pair(lambda x: x.clamp(-0.5, 0.5), lambda y: y, (1, 3, 4))
    with pytest.raises(ValueError, match="the adjoint does not fit"):
        Pair(rolled, rolled, (1, 3, 4))
    with pytest.raises(ValueError, match=r"the adjoint gave shape \(1, 1, 3, 2\)"):
        Pair(rolled, lambda y: y[..., :2], (1, 3, 4))
    with pytest.raises(ValueError, match=r"gave shape \(12,\) for one image"):
        Pair(lambda x: x.flatten(), lambda y: y, (1, 3, 4))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="factor 3 does not divide images of 4 x 6"):
        BoxAverage(3).forward(torch.zeros(1, 1, 4, 6))
    with pytest.raises(ValueError, match="factor = 0"):
        BoxAverage(0)
    with pytest.raises(ValueError, match="blur = 0"):
        Blur(0.0, (4, 4))
    with pytest.raises(ValueError, match="a blur of images of 4 x 4, and one of 4 x 5 came"):
        Blur(1.0, (4, 4)).forward(torch.zeros(1, 1, 4, 5))
    with pytest.raises(ValueError, match="4 channels and 3 weights"):
        Grey().forward(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="give 0 and 1 with four axes"):
        Mask(torch.full((1, 1, 2, 2), 0.5))
