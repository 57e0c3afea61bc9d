"""What a fit gains, on a small network that was trained: in diffusers' own solver, and by features of real images."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphabar.cli.main import app
from alphabar.core.seeds import starting_noise
from alphabar.core.types import Pixels
from alphabar.data.images import to_model
from alphabar.denoiser.model import Model, build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.to_diffusers import export_diffusers
from alphabar.evaluation.fid import frechet
from alphabar.features.stats import FeatureStats
from alphabar.fitting import problem
from alphabar.fitting.coefficients import Coefficients
from alphabar.fitting.trajectory import fine_grid, fine_trajectory
from alphabar.sampling.fitted import Tuned
from alphabar.sampling.sample import sample
from alphabar.schedule.grid import make_grid
from alphabar.training.checkpoint import load_model
from alphabar.verbs import tune as tuning
from alphabar.verbs.tune import tune
from tests.fixtures.runs import untrained_extractor

diffusers = pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # theirs
    pytest.mark.slow(15),
]
RUN = "diffusers:pipe"


def stripes(n: int, rng: np.random.Generator) -> Pixels:
    """8 x 8, horizontal or vertical, of any phase."""
    phase, upright = rng.uniform(0, 2 * np.pi, (n, 1, 1)), rng.integers(0, 2, (n, 1, 1))
    row, column = np.mgrid[:8, :8]
    wave = np.sign(np.sin(np.where(upright == 0, row, column) * np.pi / 2 + phase))
    return np.asarray((127.5 + 100 * wave).round().astype(np.uint8)[..., None])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline whose UNet2DModel was trained for two seconds, and images like those that it saw."""
    place = tmp_path_factory.mktemp("gain")
    rng = np.random.default_rng(0)
    model = build(ModelRecipe(network="unet2d", channels=(16, 24), groups=4), {"kind": "linear"}, (1, 8, 8), 0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for k in range(120):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - k / 120) + 1e-4
        sigma = model.schedule.sigma(torch.from_numpy(rng.integers(0, 1000, 64).astype(np.float64))).float()
        noise = torch.from_numpy(rng.standard_normal((64, 1, 8, 8), dtype=np.float32))
        optimizer.zero_grad()
        model.loss(to_model(stripes(64, rng)), sigma, noise).mean().backward()
        optimizer.step()
    export_diffusers(model.eval(), place / "pipe")
    np.save(place / "real.npy", stripes(400, rng))
    for seed in (0, 1):
        untrained_extractor(seed).save(place / f"e{seed}.safetensors")
    return place


@pytest.fixture(autouse=True)
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.setenv("ALPHABAR_CACHE", str(trained / "cache"))


def theirs(model: Model, unit: torch.Tensor, how: dict[str, Any], **config: Any) -> torch.Tensor:
    """What diffusers' DPM-Solver++ makes of unit noise."""
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction", final_sigmas_type="zero", **config)
    scheduler.set_timesteps(**how)
    y = unit
    with torch.no_grad():
        for t in scheduler.timesteps:
            y = scheduler.step(model.network.unet(y, t).sample, t, y).prev_sample
    return y


def test_diffusers_own_solver_gains_from_fitted_timesteps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On noise that no fit has seen it ends nearer to the fine trajectory than with its usual spacings, at as many calls."""
    model = load_model(RUN)
    unit = starting_noise(77, range(64), model.image_shape)
    end = fine_trajectory(model, unit, fine_grid(model.schedule), progress=False).end
    for module in (problem, tuning):
        monkeypatch.setattr(module, "fine_grid", partial(fine_grid, levels=40))  # for time's sake
    tune(RUN, (6, 8), fit="grid", base="dpmpp_2m", n=48, progress=False)
    app(["export", RUN, "--to", "timesteps"], result_action="return_value")
    rows = json.loads(capsys.readouterr().out)
    assert [row["calls"] for row in rows] == [6, 8]
    for row in rows:
        assert all(isinstance(t, int) for t in row["timesteps"]) and row["moved"] < 1e-6  # levels are timesteps already
        fitted = theirs(model, unit, {"timesteps": row["timesteps"]})
        usual = [
            theirs(model, unit, {"num_inference_steps": row["calls"]}, **config)
            for config in ({}, {"timestep_spacing": "leading"}, {"timestep_spacing": "trailing"}, {"use_karras_sigmas": True})
        ]
        off, *others = (float((y - end).square().mean().sqrt()) for y in (fitted, *usual))
        assert off < 0.9 * min(others), (row["calls"], off, others)


def test_a_fit_by_features_comes_nearer_to_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the features that it was fitted to, on a seed that it has not seen, than DDIM, which it began with."""
    for module in (problem, tuning):
        monkeypatch.setattr(module, "fine_grid", partial(fine_grid, levels=12))
    ours, model = untrained_extractor(0), load_model(RUN)
    begin = Tuned("ddim", model.fingerprint, *Coefficients.ddim(make_grid(model.schedule, 3)).plain())
    made = tune(
        RUN, (3,), fit="features", against="real.npy", extractor="e0.safetensors", heldout_extractor="e1.safetensors", n=16,
        n_heldout=64, init_from={3: begin}, rounds=2, steps=8, batch=64, remember=256, rate=0.05, progress=False,
    )[0].fit  # fmt: skip
    real = FeatureStats.of(ours.features(np.load("real.npy")), ours.fingerprint)

    def distance(fit: Tuned) -> float:
        images = sample(model, 400, tuned=fit, seed=5, progress=False).images
        return frechet(FeatureStats.of(ours.features(images), ours.fingerprint), real)

    assert made.stochastic and distance(made) < 0.7 * distance(begin), (distance(made), distance(begin))
