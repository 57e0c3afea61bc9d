"""ONNX files: the time of every schedule, and the output on ONNX Runtime, against the model in PyTorch."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from alphabar.cli.main import app
from alphabar.core.seeds import starting_noise
from alphabar.denoiser.model import Model, build, save_weights
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.own_networks import register_network
from alphabar.denoiser.to_onnx import OnnxDenoiser, OnnxTime, example_inputs, export_onnx, onnx_bytes, rounded
from alphabar.schedule.base import Schedule
from alphabar.schedule.betas import Betas, Linear
from alphabar.schedule.continuous import Cosine, Flow, LogSigma
from alphabar.verbs.export import export, exports
from tests.cli.test_names import make_set

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
TINY = ModelRecipe(channels=(16,), blocks=1, attention=(), embedding=16, groups=4)


def filled(model: Model, seed: int = 0) -> Model:
    """The model with random weights everywhere: new ones give zeros."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        for p in model.parameters():
            nn.init.normal_(p, std=0.2)
    return model.eval()


def run(content: bytes | Path, **inputs: Any) -> torch.Tensor:
    session = onnxruntime.InferenceSession(content if isinstance(content, bytes) else str(content))
    return torch.from_numpy(session.run(["x0_hat"], {k: np.asarray(v) for k, v in inputs.items()})[0])


SCHEDULES = [
    Cosine(), Cosine(s=0.0, t_start=0.0), Flow(), LogSigma(), Linear(), Linear(beta_max=0.01, steps=10),
    Betas("squaredcos_cap_v2"), Betas("scaled_linear", zero_snr=True),
]  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.kind}-{getattr(s, 'curve', '')}")
def test_the_time_of_a_level_is_that_of_the_schedule(schedule: Schedule) -> None:
    t = torch.linspace(schedule.t_min, schedule.t_max, 999, dtype=torch.float64)
    sigma = schedule.sigma(t)
    wanted = schedule.t(sigma.float().double())  # the file is given float32
    assert (OnnxTime(schedule)(sigma.float()) - wanted).abs().max() < 2e-6 * max(1.0, schedule.t_max) + 1e-3 * (t[1] - t[0])
    beyond = torch.tensor([schedule.sigma_min / 2, schedule.sigma_max * 2])
    assert OnnxTime(schedule)(beyond).tolist() == pytest.approx([schedule.t_min, schedule.t_max])


@pytest.mark.slow(15)
def test_the_file_gives_the_models_output_for_any_batch_and_says_how_images_are_prepared(tmp_path: Path) -> None:
    model = filled(build(TINY, Linear().spec(), (3, 10, 8), crop=1, classes=("a", "b", "c"), value_range=(0.0, 4.0)))
    conditional = filled(build(replace(TINY, conditional=True), Linear().spec(), (3, 10, 8), classes=("a", "b")))
    assert export_onnx(model, tmp_path / "plain.onnx") < 1e-4
    assert export_onnx(conditional, tmp_path / "classes.onnx") < 1e-4
    for n in (1, 2, 7):
        sigma = torch.logspace(-1.5, 1.5, n)
        x = starting_noise(0, range(n), (3, 10, 8)) * (1 + sigma**2).sqrt()[:, None, None, None]
        labels = torch.arange(n) % 3
        with torch.no_grad():
            assert (run(tmp_path / "plain.onnx", x=x, sigma=sigma) - model(x, sigma)).abs().max() < 1e-4
            got = run(tmp_path / "classes.onnx", x=x, sigma=sigma, labels=labels)
            assert (got - conditional(x, sigma, labels)).abs().max() < 1e-4
            assert n == 1 or (got - conditional(x, sigma, labels.flip(0))).abs().max() > 1e-2
    meta = onnxruntime.InferenceSession(str(tmp_path / "plain.onnx")).get_modelmeta()
    about = {k: json.loads(v) if v[:1] in "[{0123456789nf" else v for k, v in meta.custom_metadata_map.items() if k != "model"}
    assert meta.producer_name == "alphabar" and meta.custom_metadata_map["model"] == model.fingerprint
    assert about["image_shape"] == [3, 10, 8] and about["padding"] == 1 and about["scale"] == 255
    assert about["sigma_max"] == pytest.approx(model.schedule.sigma_max) and about["value_range"] == [0.0, 4.0]
    before = (tmp_path / "plain.onnx").read_bytes()
    export_onnx(model, tmp_path / "plain.onnx")  # replaces its own file
    assert (tmp_path / "plain.onnx").read_bytes() == before
    (tmp_path / "mine.onnx").write_bytes(b"of another program")
    with pytest.raises(FileExistsError, match="no ONNX model that alphabar wrote"):
        export_onnx(model, tmp_path / "mine.onnx")


@pytest.mark.slow(15)
def test_weights_in_16_bits_are_the_rounded_ones() -> None:
    model = filled(build(replace(TINY, channels=(64,)), Flow().spec(), (1, 8, 8)))
    content, deviation = onnx_bytes(model, half=True)
    whole, _ = onnx_bytes(model)
    assert len(content) < 0.7 * len(whole) and deviation < 1e-4
    x, sigma = starting_noise(0, range(2), (1, 8, 8)), torch.tensor([0.2, 3.0])
    with torch.no_grad():
        assert (run(content, x=x, sigma=sigma) - rounded(model)(x, sigma)).abs().max() < 1e-5
        assert (run(content, x=x, sigma=sigma) - model(x, sigma)).abs().max() > 1e-5


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow"])
@pytest.mark.parametrize("schedule", [Cosine(), Flow(), LogSigma(0.01, 100.0), Linear(beta_max=0.01)], ids=lambda s: s.kind)
def test_what_is_traced_is_the_model(prediction: str, schedule: Schedule) -> None:
    model = filled(build(replace(TINY, prediction=prediction, data_range=0.5), schedule.spec(), (1, 9, 9)))
    x, sigma = example_inputs(model, 7)
    with torch.no_grad():
        scale = sigma.clamp(min=1)[:, None, None, None] if prediction == "eps" else 1
        assert ((OnnxDenoiser(model)(x, sigma) - model(x, sigma)) / scale).abs().max() < 1e-4


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return y * self.scale if float(y.sum()) > 0 else y


@pytest.mark.slow(15)
def test_a_network_that_cannot_be_traced_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    register_network("branching_onnx", lambda shape, classes: Branching())
    model = build(ModelRecipe(network="branching_onnx"), Cosine().spec(), (1, 8, 8))
    with pytest.raises(ValueError, match=r"the network 'branching_onnx' cannot be exported to ONNX .*traceable"):
        export_onnx(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow(15)
def test_what_a_recipe_can_be_exported_to_is_printed_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = exports(build(TINY, Cosine().spec(), (1, 8, 8)))
    assert found[:2] == ["export to ONNX: yes", "export to a page: yes"]
    assert found[2].startswith("export to diffusers: no, the network is 'unet', which does not exist in diffusers")
    make_set(tmp_path / "set", ("a", "b"))
    monkeypatch.chdir(tmp_path)
    app(["train", "set", "--out", "r", "--dry-run", "--images", "640"], result_action="return_value")
    assert "export to ONNX: yes" in capsys.readouterr().out


@pytest.mark.slow(15)
def test_what_export_is_given_wrongly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_weights(Path("m.safetensors"), build(TINY, Cosine().spec(), (1, 8, 8)))
    with pytest.raises(ValueError, match=r"--to model\.onxx: give NAME\.html, NAME/, NAME\.onnx"):
        export("m.safetensors", "model.onxx")
    with pytest.raises(ValueError, match="both name the file to write: leave --out out"):
        export("m.safetensors", "model.onnx", "other.onnx")
    Path("folder.onnx").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder, and the ONNX model is a file"):
        export("m.safetensors", "folder.onnx")
    assert "on ONNX Runtime it deviates from the run by" in export("m.safetensors", "model.onnx", half=True)[0]
