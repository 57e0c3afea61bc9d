"""Statistics of features: those of parts add up to those of the whole."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.features.stats import FeatureStats, pieces, stream
from tests.fixtures.sets import Linear, stripes


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


def test_a_large_mean_does_not_reduce_the_precision() -> None:
    # with sums of squares in float64, a variance of 1 would be lost to rounding at a mean of 1e9
    f = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    small, large = FeatureStats.of(f, "e"), FeatureStats.of(f[:400] + 1e9, "e") + FeatureStats.of(f[400:] + 1e9, "e")
    np.testing.assert_allclose(large.cov, small.cov, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_error_is_that_of_sums_in_float64(dtype: torch.dtype) -> None:
    """Of features far from 0, in several blocks of rows, against products in 80 bits; the features are not changed."""
    f = (torch.rand(5000, 9, generator=torch.Generator().manual_seed(3)) * torch.logspace(0, 3, 9) + 7).to(dtype)
    before, exact, eps = f.clone(), f.double().numpy().astype(np.longdouble), np.finfo(np.float64).eps
    found = FeatureStats.of(f, "e")
    c = exact - exact.mean(0)
    mean_error = np.abs(found.mean.numpy() - exact.mean(0)) / np.abs(exact).mean(0)
    scatter_error = np.abs(found.scatter.numpy() - c.T @ c) / (np.abs(c).T @ np.abs(c))
    assert mean_error.max() < 40 * eps  # about sqrt(n / 2): errors of either sign add up to this; their worst case is n eps
    assert scatter_error.max() < 40 * eps
    assert torch.equal(f, before)
    assert torch.equal(found.scatter, found.scatter.T)


def test_statistics_of_two_extractors_do_not_add_up() -> None:
    f = torch.randn(10, 3)
    with pytest.raises(ValueError, match=r"extractor a .* and of b .* same extractor"):
        FeatureStats.of(f, "a") + FeatureStats.of(f, "b")


def test_empty_nan_and_infinite_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(0, 3\): wanted \(n, d\)"):
        FeatureStats.of(torch.zeros(0, 3), "e")
    for bad in (float("nan"), float("inf"), -float("inf")):
        f = torch.zeros(5, 2)
        f[3:, 1] = bad
        with pytest.raises(ValueError, match=r"NaN or infinity among the features of image 3 .* and 1 after it"):
            FeatureStats.of(f, "e")
    with pytest.raises(ValueError, match="no covariance"):
        _ = FeatureStats.of(torch.zeros(1, 3), "e").cov


def test_stream_does_not_depend_on_the_chunks() -> None:
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


def test_stream_names_the_image_with_nan_features() -> None:
    class Bad(Linear):
        def features(self, pixels: np.ndarray) -> torch.Tensor:
            f = super().features(pixels)
            if self.seen > 150:
                f[5, 0] = float("nan")
            return f

    pixels = stripes(230, 3).pixels
    with pytest.raises(ValueError, match=r"image 135 \(the first is image 0\)"):  # 100 + 30 of the chunks before, and 5
        stream(iter([pixels[:130], pixels[130:]]), Bad(), chunk=100)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_pieces_of_a_map_are_its_images(mode: str, tmp_path: Path) -> None:
    pixels = stripes(100, 3, (32, 32, 3)).pixels
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode=mode)  # type: ignore[call-overload]
    expected = pixels.copy()
    if mode != "r":
        mapped[60] = expected[60] = 7  # in mode c the change is in memory only, and releasing the page would lose it
    got = list(pieces(mapped[10:], range(0, 90, 40), 40))
    assert [len(block) for block in got] == [40, 40, 10]
    assert np.array_equal(np.concatenate(got), expected[10:])
    assert np.array_equal(mapped, expected)
