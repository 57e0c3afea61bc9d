import numpy as np
import pytest
import torch

from alphabar.evaluation.features import FeatureStats, scatter_of, stream
from tests.evaluation.conftest import Linear, stripes


def plain(f: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    a = f.double().numpy()
    return a.mean(0), np.cov(a, rowvar=False)


@pytest.mark.parametrize("sizes", [(1, 1, 98), (50, 50), (7, 13, 80)])
def test_chunks_equal_the_whole(sizes: tuple[int, ...]) -> None:
    f = torch.randn(100, 6, generator=torch.Generator().manual_seed(0)) * 3 + 100
    parts = [FeatureStats.of(part, "e") for part in f.split(list(sizes))]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    mean, cov = plain(f)
    assert total.n == 100
    np.testing.assert_allclose(total.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(total.cov, cov, rtol=1e-11, atol=1e-12)


def test_a_large_offset_costs_no_digits() -> None:
    # sums of squares in float64 would leave nothing of a variance of 1 beside a mean of 1e9
    f = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    small, large = FeatureStats.of(f, "e"), FeatureStats.of(f[:400] + 1e9, "e") + FeatureStats.of(f[400:] + 1e9, "e")
    np.testing.assert_allclose(large.cov, small.cov, atol=1e-6)


def test_tiles_of_the_scatter_equal_the_product() -> None:
    c = torch.randn(40, 700, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    np.testing.assert_allclose(scatter_of(c), c.T @ c, rtol=1e-12, atol=1e-12)


def test_two_extractors_never_mix() -> None:
    f = torch.randn(10, 3)
    with pytest.raises(ValueError, match=r"extractor a .* and of b .* same extractor"):
        FeatureStats.of(f, "a") + FeatureStats.of(f, "b")


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"\(0, 3\): wanted \(n, d\)"):
        FeatureStats.of(torch.zeros(0, 3), "e")
    with pytest.raises(ValueError, match="NaN or infinity"):
        FeatureStats.of(torch.tensor([[0.0, float("nan")]]), "e")
    with pytest.raises(ValueError, match="no covariance"):
        _ = FeatureStats.of(torch.zeros(1, 3), "e").cov


def test_stream_is_one_pass_in_any_chunks() -> None:
    extractor = Linear()
    pixels = stripes(230, 3).pixels
    whole, features = stream(pixels, extractor, keep=True)
    assert features is not None
    assert extractor.seen == 230
    chunks, nothing = stream([pixels[:30], pixels[30:]], extractor, chunk=64)
    assert nothing is None
    assert chunks.n == 230
    mean, cov = plain(features)
    for stats in (whole, chunks):
        np.testing.assert_allclose(stats.mean, mean, rtol=1e-13)
        np.testing.assert_allclose(stats.cov, cov, rtol=1e-12)
    with pytest.raises(ValueError, match="no images"):
        stream([], extractor)
