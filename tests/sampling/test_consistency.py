"""Sampling of consistency models, against the closed form of Gaussian images; and what such a model refuses."""

import pytest
import torch

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.denoiser.model import build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.sampling.sample import sample
from alphabar.sampling.samplers.consistency import consistency
from alphabar.schedule.continuous import Cosine
from alphabar.schedule.grid import check_grid, for_consistency

C = 0.5


def exact(x, sigma):
    """The end of the probability-flow ODE of Gaussian images: x c / sqrt(c^2 + sigma^2)."""
    return x * (C / (C**2 + sigma**2).sqrt())[:, None, None, None]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_any_number_of_steps_gives_the_distribution_of_the_images(steps):
    grid = for_consistency(Cosine(), steps)
    check_grid(grid)
    assert len(grid) == steps + 1
    n, start = 20_000, float(grid[0])
    x = (start**2 + C**2) ** 0.5 * starting_noise(0, range(n), (1, 1, 1))  # images and noise at the first level
    out = consistency(exact, x, grid, noise=SeededNoise(0, range(n)))
    assert float(out.std()) == pytest.approx(C, rel=0.02)
    assert abs(float(out.mean())) < 0.02


def test_two_steps_need_noise_and_one_does_not():
    x = torch.ones(2, 1, 1, 1)
    assert torch.equal(consistency(exact, x, for_consistency(Cosine(), 1)), exact(x, torch.full((2,), Cosine().sigma_max)))
    with pytest.raises(ValueError, match="pass noise="):
        consistency(exact, x, for_consistency(Cosine(), 2))


def test_levels_of_two_steps_end_at_eight_tenths():
    assert for_consistency(Cosine(), 2).tolist() == [Cosine().sigma_max, 0.8, 0.0]


def test_a_distilled_model_is_drawn_by_its_sampler_and_refuses_others():
    recipe = ModelRecipe(channels=(8,), groups=8, embedding=8)
    model = build(recipe, {"kind": "cosine"}, (1, 8, 8), consistency=True).eval()
    plain = build(recipe, {"kind": "cosine"}, (1, 8, 8)).eval()
    drawn = sample(model, 3, steps=2, progress=False)
    assert (drawn.record["sampler"], drawn.record["nfe"]) == ("consistency", 2)
    assert model.fingerprint != plain.fingerprint
    for name in ("ddim", "dpmpp_2m"):
        with pytest.raises(ValueError, match=f"sampler {name} needs E.x0 . x., and this model was distilled.*consistency"):
            sample(model, 3, sampler=name, steps=2, progress=False)
    assert sample(plain, 3, steps=2, progress=False).record["sampler"] == "ddim"
