"""The held-out split goes by content."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alphabar.data.split import holdout, image_hashes


@given(st.lists(st.integers(0, 40), min_size=1, max_size=80), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_duplicates_stay_on_one_side_in_any_order(which: list[int], random: object) -> None:
    distinct = np.random.default_rng(1).integers(0, 256, (41, 3, 3, 1), dtype=np.uint8)
    pixels = distinct[which]
    kept, held = holdout(pixels, 0.4)
    assert sorted([*kept, *held]) == list(range(len(which)))
    sides = [{which[i] for i in side} for side in (kept, held)]
    assert not sides[0] & sides[1]
    order = np.random.default_rng(len(which)).permutation(len(which))
    _, again = holdout(pixels[order], 0.4)
    assert {which[order[i]] for i in again} == sides[1]


def test_the_share_is_the_one_asked_for() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6000, 4, 4, 1), dtype=np.uint8)
    for fraction in (1 / 6, 0.5):
        _, held = holdout(pixels, fraction)
        spread = (fraction * (1 - fraction) / 6000) ** 0.5
        assert abs(len(held) / 6000 - fraction) < 4 * spread
    assert len(holdout(pixels, 0.0)[1]) == 0


def test_a_larger_share_holds_out_the_smaller_ones_images_too() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 4, 4, 1), dtype=np.uint8)
    assert set(holdout(pixels, 0.1)[1]) < set(holdout(pixels, 0.3)[1])


def test_the_hash_sees_shape_and_every_byte() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 9, 1), dtype=np.uint8)
    seen = {int(image_hashes(pixels)[0]), int(image_hashes(pixels.reshape(1, 9, 4, 1))[0])}
    for i in range(36):
        other = pixels.copy()
        other.flat[i] ^= 1
        seen.add(int(image_hashes(other)[0]))
    assert len(seen) == 38


def test_given_hashes_are_used_and_checked() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), dtype=np.uint8)
    hashes = image_hashes(pixels)
    np.testing.assert_array_equal(holdout(pixels, 0.3, hashes=hashes)[1], holdout(pixels, 0.3)[1])
    np.testing.assert_array_equal(holdout(pixels, 0.5, hashes=np.zeros(50, dtype=np.uint64))[1], np.arange(50))
    with pytest.raises(ValueError, match="3 hashes for 50 images"):
        holdout(pixels, hashes=hashes[:3])


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 16.7, float("nan")])
def test_a_share_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        holdout(np.zeros((2, 2, 2, 1), dtype=np.uint8), fraction)
