"""Augmentation: images are transformed by exactly the parameters that the network is given."""

import math

import numpy as np
import pytest
import torch

from alphabar.core.seeds import generator, starting_noise
from alphabar.data.augment import AUGMENT_DIM, Geometry, transformed


def parameters(**columns: float) -> torch.Tensor:
    names = ["mirror", "upside_down", "scale", "cos", "sin", "along", "across", "right", "down"]
    return torch.tensor([[columns.get(k, 0.0) for k in names]])


def test_the_identity_changes_nothing() -> None:
    x = starting_noise(0, range(3), (2, 8, 8))
    assert torch.equal(transformed(x, torch.zeros(3, AUGMENT_DIM)), x)
    assert not Geometry(0.0).draw(generator(0)).any()


def test_mirrors_are_exact() -> None:
    x = starting_noise(0, range(1), (2, 6, 8))
    assert torch.equal(transformed(x, parameters(mirror=1)), x.flip(-1))
    assert torch.equal(transformed(x, parameters(upside_down=1)), x.flip(-2))
    assert torch.equal(transformed(x, parameters(mirror=1, upside_down=1)), x.flip(-1, -2))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 10)])
def test_shifts_of_whole_pixels_are_exact(shape: tuple[int, int, int]) -> None:
    _, h, w = shape
    x = starting_noise(0, range(1), shape)
    y = transformed(x, parameters(right=2 / w, down=-1 / h))
    assert torch.allclose(y[..., :-1, 2:], x[..., 1:, :-2], atol=1e-5)


def test_a_quarter_turn_turns_the_picture() -> None:
    x = starting_noise(0, range(1), (1, 7, 7))
    y = transformed(x, parameters(cos=-1.0, sin=1.0))  # cos 90 degrees - 1, sin 90 degrees; the vertical axis points down
    assert torch.allclose(y, x.rot90(-1, (2, 3)), atol=1e-5)


def test_scale_and_stretch_are_those_of_a_ramp() -> None:
    """Of an image that rises evenly from the middle, its slopes say where pixels came from."""
    at = (torch.arange(32) - 15.5) / 16
    right, down = at.expand(32, 32), at[:, None].expand(32, 32)
    ramps = torch.stack([right, down])[None]
    inner = (slice(None), slice(None), slice(12, 20), slice(12, 20))
    twice = transformed(ramps, parameters(scale=1.0))
    assert torch.allclose(twice[inner], ramps[inner] / 2, atol=1e-5)  # twice as large, so half as steep
    wide = transformed(ramps, parameters(along=0.5))  # along the horizontal, by sqrt 2; across by its inverse
    assert torch.allclose(wide[0, 0, 12:20, 12:20], ramps[0, 0, 12:20, 12:20] / math.sqrt(2), atol=1e-5)
    assert torch.allclose(wide[0, 1, 12:20, 12:20], ramps[0, 1, 12:20, 12:20] * math.sqrt(2), atol=1e-5)


def test_a_rotation_of_a_wide_image_keeps_its_angles() -> None:
    h, w = 24, 48
    right = ((torch.arange(w) - w / 2 + 0.5) / 24).expand(h, w)
    down = ((torch.arange(h) - h / 2 + 0.5) / 24)[:, None].expand(h, w)
    turn = 0.3
    y = transformed(torch.stack([right, down])[None], parameters(cos=math.cos(turn) - 1, sin=math.sin(turn)))[0, :, 8:16, 18:30]
    back = torch.stack([math.cos(turn) * right + math.sin(turn) * down, -math.sin(turn) * right + math.cos(turn) * down])
    assert torch.allclose(y, back[:, 8:16, 18:30], atol=1e-5)


def test_each_part_comes_as_often_as_asked() -> None:
    rows = np.stack([Geometry(0.3).draw(generator(0, k)) for k in range(4000)])
    for columns, share in (([0], 0.15), ([1], 0.15), ([2], 0.3), ([3, 4], 0.3), ([5, 6], 0.3), ([7, 8], 0.3)):
        assert (rows[:, columns] != 0).any(1).mean() == pytest.approx(share, abs=4 * 0.0075)
    some = rows[rows[:, 2] != 0, 2]
    assert some.std() == pytest.approx(0.2, rel=0.1)
    turned = rows[(rows[:, 3:5] != 0).any(1)]
    assert np.allclose((turned[:, 3] + 1) ** 2 + turned[:, 4] ** 2, 1, atol=1e-5)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"augment = 1\.5: give a probability from 0 to 1"):
        Geometry(1.5)
