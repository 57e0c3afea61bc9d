import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alphabar.denoiser.build import ModelRecipe, build, load_weights, save_weights

SMALL = ModelRecipe(channels=(16, 16), embedding=16)


def test_a_stored_model_is_the_same_model(tmp_path: Path) -> None:
    model = build(SMALL, {"kind": "linear", "beta_max": 0.01}, (1, 8, 8), seed=3, crop=1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)
    save_weights(tmp_path / "m.safetensors", model)
    again = load_weights(tmp_path / "m.safetensors")
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 3.0])
    assert torch.equal(again(x, sigma), model.eval()(x, sigma))
    assert (again.fingerprint, again.crop, again.data_range) == (model.fingerprint, 1, model.data_range)


def test_weights_come_from_the_seed_alone() -> None:
    torch.random.manual_seed(1)
    before = torch.random.get_rng_state()
    a = build(SMALL, {"kind": "cosine"}, (1, 8, 8), seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert a.fingerprint == build(SMALL, {"kind": "cosine"}, (1, 8, 8), seed=5).fingerprint
    assert a.fingerprint != build(SMALL, {"kind": "cosine"}, (1, 8, 8), seed=6).fingerprint


def test_the_lessons_network_and_its_initialisation() -> None:
    pytest.importorskip("diffusers")
    recipe = ModelRecipe(network="unet2d", channels=(8, 16), blocks=1, groups=4, init="lesson", prediction="eps")
    model = build(recipe, {"kind": "linear"}, (1, 8, 8))
    convs = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert all(m.weight.abs().max() == 0 for n, m in convs.items() if n.endswith((".conv2", ".conv_out")))
    down = [m for n, m in convs.items() if m.stride == (2, 2)]
    assert down
    for m in down:
        flat = m.weight.detach().flatten(1)
        assert torch.allclose(flat @ flat.T, torch.eye(len(flat)), atol=1e-5)
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(model(x, torch.tensor([0.5, 2.0])), x)  # eps_hat = 0 leaves x as it is


def test_hostile_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"\x80\x04 no such thing")
    with pytest.raises(ValueError, match="no safetensors file, or was cut short"):
        load_weights(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="not written by alphabar"):
        load_weights(file)
    spec = build(SMALL, {"kind": "cosine"}, (1, 8, 8)).spec
    for change, words in (
        ({"format": 99}, "reads formats"), ({"network": "exec"}, "use unet or unet2d"),
        ({"image_shape": [1, 8]}, "wanted \\[channels, height, width\\]"), ({"schedule": {"kind": "x"}}, "use one of linear"),
        ({"arguments": {"nothing": 1}}, "do not go together"),
    ):  # fmt: skip
        save_file({"a": torch.zeros(1)}, file, metadata={"alphabar": json.dumps({**spec, **change})})
        with pytest.raises(ValueError, match=words):
            load_weights(file)
