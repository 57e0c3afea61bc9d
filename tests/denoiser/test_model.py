import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alphabar.denoiser.model import build, load_weights, save_weights
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.schedule.kinds import KINDS

SMALL = ModelRecipe(channels=(16, 16), embedding=16)


def test_a_stored_model_is_read_unchanged(tmp_path: Path) -> None:
    model = build(SMALL, {"kind": "linear", "beta_max": 0.01}, (1, 8, 8), seed=3, crop=1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)
    save_weights(tmp_path / "m.safetensors", model)
    again = load_weights(tmp_path / "m.safetensors")
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 3.0])
    assert torch.equal(again(x, sigma), model.eval()(x, sigma))
    assert (again.fingerprint, again.crop, again.data_range) == (model.fingerprint, 1, model.data_range)


def test_weights_depend_only_on_the_seed() -> None:
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
    assert torch.allclose(model(x, torch.tensor([0.5, 2.0])), x)  # eps_hat = 0, so x0_hat = x


def test_unet2d_trains_in_one_memory_layout() -> None:
    """diffusers' blocks copy to the other layout and back in training mode. Here they do not, and dropout is active."""
    pytest.importorskip("diffusers")
    recipe = ModelRecipe(network="unet2d", channels=(8, 16), blocks=1, groups=4, dropout=0.5)
    model = build(recipe, {"kind": "linear"}, (1, 8, 8)).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    layouts = []
    for name, module in model.named_modules():
        if name.endswith("conv_shortcut"):
            module.register_forward_hook(
                lambda _, inputs, __: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
            )
    x = torch.randn(2, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    out = [model(x, torch.ones(2)) for _ in range(2)]
    assert len(layouts) >= 6 and all(layouts)
    assert model.training and not torch.equal(*out)
    assert torch.equal(*(model.eval()(x, torch.ones(2)) for _ in range(2)))


def test_invalid_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"\x80\x04 no such thing")
    with pytest.raises(ValueError, match="not a safetensors file, or is truncated"):
        load_weights(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="not written by alphabar"):
        load_weights(file)
    spec = build(SMALL, {"kind": "cosine"}, (1, 8, 8)).spec
    for change, message in (
        ({"format": 99}, "reads formats"), ({"network": "exec"}, "network 'exec' is not registered"),
        ({"image_shape": [1, 8]}, "wanted \\[channels, height, width\\]"), ({"schedule": {"kind": "x"}}, "use one of linear"),
        ({"arguments": {"nothing": 1}}, "do not match its specification"),
    ):  # fmt: skip
        save_file({"a": torch.zeros(1)}, file, metadata={"alphabar": json.dumps({**spec, **change})})
        with pytest.raises(ValueError, match=message):
            load_weights(file)


# ---- classes


@pytest.mark.parametrize("network", ["unet", "unet2d"])
def test_the_output_of_a_conditional_model_depends_on_the_class(network: str, tmp_path: Path) -> None:
    if network == "unet2d":
        pytest.importorskip("diffusers")
    recipe = ModelRecipe(network=network, channels=(8, 16), embedding=16, groups=4, conditional=True)  # type: ignore[arg-type]
    model = build(recipe, {"kind": "cosine"}, (1, 8, 8), seed=3, classes=("shoe", "bag", "coat")).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    save_weights(tmp_path / "m.safetensors", model)
    again = load_weights(tmp_path / "m.safetensors")
    assert again.class_names == ("shoe", "bag", "coat") and again.classes == 3
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 3.0, 3.0])
    outputs = [again(x, sigma, torch.full((3,), k)) for k in range(4)]
    assert all(not torch.allclose(outputs[a], outputs[b], atol=1e-4) for a in range(4) for b in range(a))
    assert torch.equal(again(x, sigma), outputs[3])  # without labels: no class
    mixed = again(x, sigma, torch.tensor([2, 0, 1]))
    assert torch.allclose(mixed, torch.stack([outputs[2][0], outputs[0][1], outputs[1][2]]), atol=1e-5)


def test_classes_are_required_or_refused() -> None:
    plain = build(SMALL, {"kind": "cosine"}, (1, 8, 8), classes=("shoe", "bag"))  # classes are ignored
    assert plain.classes == 0 and plain.fingerprint == build(SMALL, {"kind": "cosine"}, (1, 8, 8)).fingerprint
    with pytest.raises(ValueError, match="trained without classes: leave the labels out"):
        plain(torch.zeros(1, 1, 8, 8), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="needs images with labels, and this set has none"):
        build(replace(SMALL, conditional=True), {"kind": "cosine"}, (1, 8, 8))
    with pytest.raises(ValueError, match=r"train\.augment needs a network that takes the augmentation"):
        build(replace(SMALL, network="unet2d"), {"kind": "cosine"}, (1, 8, 8), augment=9)


def test_invalid_classes_are_refused(tmp_path: Path) -> None:
    spec = build(replace(SMALL, conditional=True), {"kind": "cosine"}, (1, 8, 8), classes=("a", "b")).spec
    for change, message in (
        ({"classes": "ab"}, "classes is 'ab'; wanted a list"), ({"classes": [1, 2]}, r"classes\[0\] is 1; wanted a text"),
        ({"classes": ["a"]}, "it names 1 classes, and the network has 2"),
    ):  # fmt: skip
        save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"alphabar": json.dumps({**spec, **change})})
        with pytest.raises(ValueError, match=message):
            load_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_the_scaled_time_has_a_similar_range_with_every_schedule(kind: str) -> None:
    model = build(SMALL, {"kind": kind}, (1, 8, 8))
    schedule = model.own_schedule
    span = (schedule.t_max - schedule.t_min) * model.network.embed.t_scale  # type: ignore[union-attr, operator]
    assert 500 < span < 1500  # the frequencies of the embedding suit timesteps 0 .. 999
