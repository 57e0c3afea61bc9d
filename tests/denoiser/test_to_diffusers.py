"""Folders of diffusers, written: diffusers makes the same images from the same noise."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alphabar.core.seeds import starting_noise
from alphabar.denoiser.from_diffusers import read_diffusers
from alphabar.denoiser.model import build, save_weights
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.to_diffusers import export_diffusers
from alphabar.fitting.coefficients import Coefficients
from alphabar.sampling.fitted import Tuned, folders_of, save_tuned
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.ddpm import ddpm
from alphabar.sampling.samplers.dpmpp import dpmpp_2m
from alphabar.schedule.betas import Betas
from alphabar.schedule.grid import at_times, make_grid, timesteps_of
from alphabar.training.checkpoint import load_model
from tests.denoiser.diffusers_folders import SMALL, N, by_list, ours, theirs, trained

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # raised in diffusers
DOC = (Path(__file__).parents[2] / "docs" / "diffusers-models.md").read_text()


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    "schedule",
    [{"kind": "linear", "beta_max": 0.01}, Betas("sigmoid").spec(), Betas("given", steps=100, given=(0.04,) * 100).spec()],
    ids=["linear", "sigmoid", "given"],
)
def test_an_exported_model_makes_the_same_images(tmp_path, prediction, schedule):
    model = trained(schedule, prediction)
    export_diffusers(model, tmp_path / "out")
    pipe = diffusers.DDIMPipeline.from_pretrained(tmp_path / "out")
    pipe.set_progress_bar_config(disable=True)
    y = starting_noise(0, range(N), model.image_shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *args, **kw: y)
        images = pipe(batch_size=N, num_inference_steps=10, output_type="np").images
    images = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
    grid = make_grid(model.schedule, 10, "trailing")
    x = ddim(model, y * float((1 + grid[0] ** 2).sqrt()), grid)
    assert (x.clamp(-1, 1) - images).abs().max() < 1e-4 and images.std() > 0.05
    again = load_model(f"diffusers:{tmp_path / 'out'}")
    assert (again(y, torch.ones(N)) - model(y, torch.ones(N))).abs().max() < 1e-4
    assert again.defaults.clip is None and again.defaults.grid == "trailing"


def test_an_exported_ddpm_makes_the_same_images(tmp_path, monkeypatch):
    model = trained()
    export_diffusers(model, tmp_path / "out", pipeline="ddpm")
    pipe = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    y = theirs(pipe.scheduler, pipe.unet, 20, model.image_shape, monkeypatch)
    assert (ours(ddpm, model, 20, "trailing") - y).abs().max() < 1e-4


@pytest.mark.parametrize("order", [1, 2])
def test_a_fitted_grid_drives_diffusers(tmp_path, order):
    """A list of timesteps is the same levels in diffusers, where DPM-Solver++ of order 1 is DDIM and of order 2 our dpmpp_2m."""
    model = trained(prediction="v")
    export_diffusers(model, tmp_path / "out")
    pipe = diffusers.DDIMPipeline.from_pretrained(tmp_path / "out")
    fitted = model.schedule.sigma(torch.tensor([999, 870.3, 640.2, 444.4, 201, 93.6, 20.1], dtype=torch.float64))
    timesteps = timesteps_of(model.schedule, torch.cat([fitted, fitted.new_zeros(1)]))
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, solver_order=order, final_sigmas_type="zero", lower_order_final=True
    )
    y = by_list(scheduler, pipe.unet, timesteps)
    grid = at_times(model.schedule, timesteps)
    assert torch.allclose(scheduler.sigmas.double(), grid, rtol=1e-4)
    x = starting_noise(0, range(N), model.image_shape) * float((1 + grid[0] ** 2).sqrt())
    x = ddim(model, x, grid) if order == 1 else dpmpp_2m(model, x, grid)
    assert (x - y).abs().max() < 1e-4


def test_a_fitted_grid_drives_ddpm_of_diffusers(tmp_path, monkeypatch):
    model = trained()
    export_diffusers(model, tmp_path / "out", pipeline="ddpm")
    pipe = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    timesteps = [999, 640, 333, 120, 7]
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **kw: torch.zeros(N, 1, 16, 16))
    y = by_list(pipe.scheduler, pipe.unet, timesteps)
    grid = at_times(model.schedule, timesteps)
    x = starting_noise(0, range(N), model.image_shape) * float((1 + grid[0] ** 2).sqrt())
    assert (ddpm(model, x, grid, noise=lambda draw, like: torch.zeros_like(like)) - y).abs().max() < 1e-4


def test_notes_say_how_to_crop_and_scale(tmp_path):
    notes = export_diffusers(trained(crop=2), tmp_path / "out")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert any("cut 2 pixels off every side" in note and note in readme for note in notes)
    assert not any("starting noise" in note for note in notes)  # sigma_max = 158 of DDPM's betas is enough noise
    notes = export_diffusers(trained({"kind": "linear", "beta_max": 0.01}), tmp_path / "less")
    assert any("multiply the starting noise of diffusers by 0.9968" in note for note in notes)
    assert not list(tmp_path.glob("*.part"))


def test_a_model_that_diffusers_cannot_represent_is_refused(tmp_path, folder):
    for model, message in (
        (
            build(ModelRecipe(channels=(8,), groups=8, embedding=16), {"kind": "linear"}, (1, 8, 8)),
            "'unet', which does not exist in diffusers",
        ),
        (trained({"kind": "cosine"}), "'cosine', whose time is continuous"),
        (build(replace(SMALL, data_range=0.5), {"kind": "linear"}, (1, 16, 16)), "-0.5..0.5; diffusers' is -1..1"),
    ):
        with pytest.raises(ValueError, match=f"{message}.*--model.network unet2d --schedule.kind linear --model.data-range 1"):
            export_diffusers(model, tmp_path / "out")
    with pytest.raises(ValueError, match="needs no export"):
        export_diffusers(read_diffusers(folder), tmp_path / "out")
    with pytest.raises(FileExistsError, match="holds files"):
        export_diffusers(trained(), folder)


@pytest.mark.usefixtures("small_data")
def test_export_from_the_command_line(tmp_path, monkeypatch, capsys):
    from alphabar.cli.main import app

    train, export = (line.split()[1:] for line in DOC.splitlines() if line.startswith("alphabar ") and "unet2d" in line)
    app([*train, "--dry-run", "--model.channels", "16", "--model.groups", "8"], result_action="return_value")
    assert "runs/unet2d" in train and export == ["export", "runs/unet2d", "--to", "diffusers", "--out", "garments_diffusers"]
    capsys.readouterr()
    save_weights(tmp_path / "m.safetensors", trained(crop=2))
    app(["export", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "out")], result_action="return_value")
    assert "DDIMPipeline" in (out := capsys.readouterr().out) and "cut 2 pixels" in out
    assert load_model(f"diffusers:{tmp_path / 'out'}").image_shape == (1, 16, 16)


def test_fitted_samplers_become_timesteps(tmp_path, folder, capsys):
    """The command of the documents, for a fit with levels between timesteps and two levels at one timestep."""
    from alphabar.cli.main import app

    model = load_model(f"diffusers:{folder}")
    (line,) = (line.split()[1:] for line in DOC.splitlines() if line.startswith("alphabar export") and "timesteps" in line)
    words = [w.replace("PATH", str(folder)).replace("timesteps.json", str(tmp_path / "t.json")) for w in line]
    with pytest.raises(ValueError, match=r"no sampler was fitted.*alphabar tune"):
        app(words, result_action="return_value")
    levels = at_times(model.schedule, [999, 700.4, 300.6, 5.2, 4.9])
    save_tuned(Tuned("mine", model.fingerprint, *Coefficients.ddim(levels).plain()), folders_of(model)[0])
    app(words, result_action="return_value")
    (row,) = json.loads((tmp_path / "t.json").read_text())
    assert row == {"name": "mine", "calls": 5, "timesteps": [999, 700, 301, 6, 5], "moved": 0.8}
    scheduler = diffusers.DDPMScheduler()
    scheduler.set_timesteps(timesteps=row["timesteps"])
    assert scheduler.timesteps.tolist() == row["timesteps"]
