"""The code of the page "Your own parts" runs, the run says what was used, and what is not registered is refused by name."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import alphabar
from alphabar.denoiser import own_networks
from alphabar.denoiser.model import build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.training import loss
from alphabar.training.config import resolve
from alphabar.training.loss import LossModule, weight
from tests.fixtures.oracles import tiny_network

PAGE = Path(__file__).parents[2] / "docs" / "own-parts.md"


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_networks, "NETWORKS", {})
    monkeypatch.setattr(loss, "WEIGHTINGS", {})


@pytest.mark.slow(13)
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(code) == 8
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile("\n".join(code), PAGE.name, "exec"), names)
    assert capsys.readouterr().out.startswith("page:midway 10.0\n")
    recipe = resolve(tmp_path / "runs" / "mine" / "recipe.toml")
    assert (recipe.model.network, recipe.train.weighting, recipe.track) == ("mine", "edm", ("diary:Diary",))
    events = [json.loads(line) for line in (tmp_path / "runs" / "mine" / "events.jsonl").read_text().splitlines()]
    assert [e["images"] for e in events if e["event"] == "watched"] == [512, 1024, 1536, 2048]
    assert "2048" in (tmp_path / "diary.txt").read_text()
    assert (alphabar.sample("runs/mine", 2, steps=2, progress=False).images.shape) == (2, 16, 16, 1)
    own_networks.NETWORKS.clear()
    with pytest.raises(
        ValueError, match=r"runs/mine.*the network 'mine' is not registered: call alphabar.register_network\('mine'"
    ):
        alphabar.load_model("runs/mine")


class Plain(nn.Module):
    """Without classes; a buffer that no file holds must be there again after loading."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.register_buffer("factor", torch.tensor(0.5), persistent=False)
        self.calls: list[tuple[Any, ...]] = []

    def forward(self, x: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        self.calls.append((t, *labels))
        return self.factor * self.conv(x)  # type: ignore[no-any-return, operator]


def test_a_network_is_made_for_shape_and_classes_and_read_again(tmp_path: Path) -> None:
    from alphabar.denoiser.model import load_weights, save_weights

    asked = []

    def make(shape: tuple[int, int, int], classes: int) -> nn.Module:
        asked.append((shape, classes))
        return Plain()

    alphabar.register_network("plain", make)
    recipe = ModelRecipe(network="plain", conditional=True)
    model = build(recipe, {"kind": "cosine"}, (1, 6, 5), classes=("a", "b"))
    assert asked == [((1, 6, 5), 2)]
    x, sigma = torch.randn(3, 1, 6, 5), torch.tensor([0.1, 1.0, 9.0])
    wanted = model(x, sigma, torch.tensor([0, 1, 2]))
    save_weights(tmp_path / "m.safetensors", model)
    state = torch.random.get_rng_state()
    again = load_weights(tmp_path / "m.safetensors")
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(again(x, sigma, torch.tensor([0, 1, 2])), wanted)
    assert again.fingerprint == model.fingerprint
    assert [len(call) for call in again.network.calls] == [2]  # type: ignore[union-attr, arg-type]
    alphabar.register_network("plain", lambda shape, classes: nn.Conv2d(1, 2, 3))
    with pytest.raises(ValueError, match=r"m\.safetensors: its weights do not match"):
        load_weights(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"train\.augment needs a network .* plain does not"):
        build(ModelRecipe(network="plain"), {"kind": "cosine"}, (1, 6, 5), augment=9)


@pytest.mark.parametrize("prediction", ["x0", "v", "eps", "flow"])
def test_a_weighting_weights_the_error_of_x0(prediction: Any) -> None:
    alphabar.register_weighting("mine", lambda sigma: 1 / (1 + sigma))
    schedule = {"kind": "flow" if prediction == "flow" else "cosine"}
    model = build(ModelRecipe(channels=(8,), groups=8, prediction=prediction, data_range=0.5), schedule, (1, 8, 8))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    x0, noise = torch.rand(4, 1, 8, 8) - 0.5, torch.randn(4, 1, 8, 8)
    for level in (0.1, 0.7, 3.0):
        sigma = torch.full((4,), level)
        x = x0 + level * noise
        error = (model(x, sigma) - x0).square().mean() * 0.25  # in the units of the network's range
        assert LossModule(model, "mine")(x0, sigma, noise).item() == pytest.approx(error.item() / (1 + level), rel=1e-3)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the loss weighting 'min_snrr' is not registered: did you mean 'min_snr'"):
        alphabar.train(
            np.zeros((40, 8, 8, 1), np.uint8), tmp_path / "r", recipe="garments", images=64, progress=False,
            train={"weighting": "min_snrr"},
        )  # fmt: skip
    with pytest.raises(ValueError, match="the network 'dit' is not registered"):
        alphabar.train(np.zeros((40, 8, 8, 1), np.uint8), tmp_path / "r", recipe="garments", model={"network": "dit"})
    assert not (tmp_path / "r").exists()
    for name in ("unet", "my net", "", "class"):
        with pytest.raises(ValueError, match="give a word that is none of unet, unet2d"):
            alphabar.register_network(name, lambda shape, classes: Plain())
    with pytest.raises(ValueError, match="the weighting 'x' is of type float"):
        alphabar.register_weighting("x", 1.0)  # type: ignore[arg-type]
    alphabar.register_weighting("one", lambda sigma: 1.0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="the weighting 'one' gave float for 3 levels"):
        weight("one", "x0", torch.ones(3))
    with pytest.raises(ValueError, match=r"<lambda> \(.*\): write def name\(denoise, x, sigmas"):
        alphabar.sample(tiny_network(), 1, sampler=lambda denoise, x, noise, on_step: x, steps=2, progress=False)
