"""The stream of samples: functions of (seed, number), whatever asks for them."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alphabar.denoiser.model import build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.training.stream import Batch, Stream, prefetched
from tests.fixtures.training import conditional_model, small_model, small_recipe


def assert_equal(a: Batch, b: Batch) -> None:
    assert np.array_equal(a.pixels, b.pixels) and torch.equal(a.noise, b.noise) and torch.equal(a.sigma, b.sigma)
    assert (a.augment is None) == (b.augment is None)
    assert a.augment is None or b.augment is None or torch.equal(a.augment, b.augment)


def test_padding_keeps_the_image_in_the_middle(pixels: NDArray[np.uint8]) -> None:
    model = build(ModelRecipe(channels=(16,)), {"kind": "linear", "beta_max": 0.01}, (1, 12, 12), crop=2)
    batch = Stream(pixels, np.arange(200), small_recipe(flip=False), model).batch(0, 4)
    assert batch.pixels.shape == (4, 12, 12, 1)
    assert batch.pixels[:, :2].max() == 0
    images = {p.tobytes() for p in pixels}
    assert all(np.ascontiguousarray(p[2:-2, 2:-2]).tobytes() in images for p in batch.pixels)
    assert batch.noise.shape == (4, 1, 12, 12)


def test_every_epoch_has_every_image_once(pixels: NDArray[np.uint8]) -> None:
    stream = Stream(pixels, np.arange(0, 200, 2), small_recipe(flip=False), small_model())
    found = np.concatenate([stream.batch(first, 20).pixels for first in range(0, 100, 20)])
    assert sorted(p.tobytes() for p in found) == sorted(p.tobytes() for p in pixels[::2])


def test_samples_do_not_depend_on_the_batch_they_are_made_in(pixels: NDArray[np.uint8]) -> None:
    recipe, model = small_recipe(augment=0.5), small_model()
    whole = Stream(pixels, np.arange(200), recipe, model).batch(190, 30)  # over the end of an epoch
    parts = [Stream(pixels, np.arange(200), recipe, model).batch(190 + first, 10) for first in (0, 10, 20)]
    for part, wanted in zip(parts, whole.split(3), strict=True):
        assert_equal(part, wanted)


def test_processes_share_the_batches_of_one(pixels: NDArray[np.uint8]) -> None:
    def batches(rank: int, world: int) -> list[Batch]:
        stream = Stream(pixels, np.arange(200), small_recipe(batch=8), small_model())
        with prefetched(stream, range(3, 6), rank, world) as found:
            return list(found)

    whole, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    assert len(whole) == 3
    for one, *halves in zip(whole, first, second, strict=True):
        for half, wanted in zip(halves, one.split(2), strict=True):
            assert_equal(half, wanted)


def test_stratified_levels_fill_every_stratum_once(pixels: NDArray[np.uint8]) -> None:
    model, recipe = small_model(), small_recipe(batch=40)
    sigma = Stream(pixels, np.arange(200), recipe, model).batch(80, 40).sigma
    schedule = model.schedule
    u = (schedule.t(sigma) - schedule.t_min) / (schedule.t_max - schedule.t_min)
    assert (u * 40).floor().long().tolist() == list(range(40))


def test_label_dropout_hides_its_share_of_the_classes() -> None:
    pixels, labels = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None, None], (200, 8, 8, 1)), np.arange(200) % 3
    model, recipe = conditional_model(), small_recipe(label_dropout=0.25)
    stream = Stream(pixels, np.arange(0, 200, 2), recipe, model, labels=labels)
    batches = [stream.batch(first, 100) for first in range(0, 3000, 100)]  # thirty epochs of the even images
    given = torch.cat([b.labels for b in batches if b.labels is not None])
    true = torch.tensor([labels[p[0, 0, 0]] for b in batches for p in b.pixels])
    hidden = given == 3
    assert float(hidden.double().mean()) == pytest.approx(0.25, abs=4 * 0.008)
    assert torch.equal(given[~hidden], true[~hidden])
    plain = Stream(pixels, np.arange(0, 200, 2), recipe, small_model()).batch(0, 100)
    assert plain.labels is None
    assert_equal(plain, batches[0])  # labels change nothing else
    with pytest.raises(ValueError, match="pass labels"):
        Stream(pixels, np.arange(200), recipe, model)
