"""Stable targets: the mean of x0 given x is that of Bayes' rule, and the pair leads to the same x."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from alphabar.denoiser.precondition import Preconditioned
from alphabar.schedule.continuous import Cosine
from alphabar.training.config import TrainRecipe
from alphabar.training.consistency import ConsistencyLoss
from alphabar.training.loss import LossModule
from alphabar.training.targets import StableTargets
from tests.fixtures.training import assert_same_weights, interrupted, small_model, small_training

G = torch.Generator().manual_seed(0)
IMAGES = torch.rand(40, 1, 2, 3, generator=G) * 2 - 1


def draws(n: int, images: Tensor = IMAGES) -> tuple[Tensor, Tensor]:
    """n of the images, and noise."""
    g = torch.Generator().manual_seed(1)
    x0 = images[torch.randint(len(images), (n,), generator=g)]
    return x0, torch.randn(x0.shape, generator=g)


def bayes(x: Tensor, sigma: float, images: Tensor) -> Tensor:
    """E[x0 | x] for images of equal probability, from the densities themselves, in float64."""
    distances = (x.double()[:, None] - images.double()[None]).flatten(2).square().sum(2)
    p = torch.exp(-distances / (2 * sigma**2))
    p /= p.sum(1, keepdim=True)
    return torch.einsum("ij,jchw->ichw", p, images.double())


@pytest.mark.parametrize("sigma", [0.7, 2.0, 30.0])
def test_the_mean_is_that_of_bayes_rule_at_the_same_x(sigma: float) -> None:
    targets = StableTargets(IMAGES.flatten(1))
    assert targets.sigma_from < 0.7
    x0, noise = draws(200)
    mean, other = targets(x0, torch.full((200,), sigma), noise)
    torch.testing.assert_close(mean.double(), bayes(x0 + sigma * noise, sigma, IMAGES), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mean + sigma * other, x0 + sigma * noise, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [1.0, 30.0])
def test_an_image_that_is_not_among_the_others_counts_beside_them(sigma: float) -> None:
    x0, noise = draws(40, IMAGES[:10])
    mean, _ = StableTargets(IMAGES[10:].flatten(1), some=True)(x0, torch.full((40,), sigma), noise)
    for k in range(40):
        wanted = bayes(x0[k : k + 1] + sigma * noise[k : k + 1], sigma, torch.cat([x0[k : k + 1], IMAGES[10:]]))
        torch.testing.assert_close(mean[k : k + 1].double(), wanted, rtol=1e-4, atol=1e-5)


def test_what_is_left_of_an_image_is_uncorrelated_with_the_mean() -> None:
    """x0 - E[x0 | x] has the mean 0 and is orthogonal to E[x0 | x], so that both targets have the same best network."""
    x0, noise = draws(200_000)
    mean, _ = StableTargets(IMAGES.flatten(1))(x0, torch.ones(len(x0)), noise)
    left = (x0 - mean).flatten(1).double()
    for value in (left[:, 0], (left * mean.flatten(1)).sum(1)):
        assert abs(float(value.mean())) < 4 * float(value.std()) / len(x0) ** 0.5
    assert float(left.square().mean()) > 0.05  # a single image has this noise, which the mean has not


def test_at_low_noise_an_image_stands_for_itself() -> None:
    targets = StableTargets(IMAGES.flatten(1))
    x0, noise = draws(50)
    sigma = torch.full((50,), 0.99 * targets.sigma_from)
    mean, same = targets(x0, sigma, noise)
    assert mean is x0 and same is noise
    shares = [(bayes(x0 + level * noise, level, IMAGES) - x0).flatten(1).norm(dim=1) for level in (float(sigma[0]), 0.7)]
    assert float(shares[0].mean()) < 0.1 < float(shares[1].mean())  # the mean, had it been computed, is nearly the image


def test_only_images_of_the_class_count_unless_it_is_hidden() -> None:
    labels = torch.arange(40) % 2
    targets = StableTargets(IMAGES.flatten(1), labels, hidden=2)
    x0, noise = draws(30)
    sigma, x = torch.full((30,), 3.0), x0 + 3 * noise
    for label, images in ((0, IMAGES[::2]), (1, IMAGES[1::2]), (2, IMAGES)):
        mean, _ = targets(x0, sigma, noise, torch.full((30,), label))
        torch.testing.assert_close(mean.double(), bayes(x, 3.0, images), rtol=1e-4, atol=1e-5)


def test_an_augmented_image_keeps_its_own_target() -> None:
    x0, noise = draws(4)
    augment = torch.zeros(4, 9)
    augment[[1, 3], [0, 7]] = 1.0
    mean, _ = StableTargets(IMAGES.flatten(1))(x0, torch.full((4,), 5.0), noise, augment=augment)
    assert [torch.equal(a, b) for a, b in zip(mean, x0, strict=True)] == [False, True, False, True]


def test_mirror_images_count_where_training_makes_them() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), dtype=np.uint8)
    recipe = TrainRecipe(stable_targets=20)
    found = [
        StableTargets.of(r, small_model(), pixels, np.arange(5, 30), None, torch.device("cpu"))
        for r in (recipe, replace(recipe, flip=True), TrainRecipe())
    ]
    assert found[2] is None
    plain, mirrored = (t.x for t in found if t is not None)
    assert plain.shape == (20, 64) and mirrored.shape == (40, 64) and all(t.some for t in found if t is not None)
    of_set = {row.tobytes() for row in (pixels[5:].astype(np.float32) / 127.5 - 1).reshape(25, 64)}
    assert {row.tobytes() for row in plain.numpy()} <= of_set
    assert torch.equal(mirrored[20:], plain.view(20, 1, 8, 8).flip(-1).flatten(1))


class Known(Preconditioned):
    """A denoiser that knows the mean: all its loss is the noise of the target."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Identity(), Cosine(), "x0", image_shape=(1, 2, 3))

    def output(self, x, sigma, labels=None, augment=None):  # type: ignore[no-untyped-def]
        return bayes(x, float(sigma[0]), IMAGES).float()


def test_the_best_network_has_no_loss() -> None:
    x0, noise = draws(500)
    sigma, targets = torch.full((500,), 2.0), StableTargets(IMAGES.flatten(1))
    assert float(LossModule(Known())(x0, sigma, noise)) > 0.1
    assert float(LossModule(Known(), targets=targets)(x0, sigma, noise)) < 1e-9


def test_images_are_drawn_from_noise_that_knows_nothing_of_them() -> None:
    seen = []

    class Drawn:
        def __call__(self, model, noise, labels, /):  # type: ignore[no-untyped-def]
            seen.append(noise)
            return noise.sum() * 0

        def distances(self) -> dict[str, float]:
            return {}

        def state(self) -> dict[str, Tensor]:
            return {}

        def restore(self, tensors, /) -> None:  # type: ignore[no-untyped-def]
            pass

    x0, noise = draws(3)
    ConsistencyLoss(Known(), (4.0,), Drawn(), StableTargets(IMAGES.flatten(1)))(x0, torch.full((3,), 9.0), noise)
    assert seen[0] is noise


@pytest.mark.parametrize("consistency", [(), (4.0, 32.0)])
def test_a_resumed_training_ends_with_the_same_weights(pixels, folder, consistency):  # type: ignore[no-untyped-def]
    changes = {"consistency": consistency, "stable_targets": 150}
    small_training(pixels, folder / "whole", **changes)
    interrupted(pixels, folder / "stopped", 352, **changes)
    small_training(pixels, folder / "stopped", resume=True, **changes)
    assert_same_weights(folder / "whole", folder / "stopped")
